"""The papers' headings of columns: which tasks each stands for. They are data: results/headings.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from adaptinfer_eval.sweep.config import SweepError, read_yaml, shipped

Record = Mapping[str, Any]


class Heading(NamedTuple):
    """A column. `part_of`: another one, of whose score this is the part of some `categories`."""

    tasks: tuple[str, ...] = ()
    digits: int = 1
    """Decimals that are printed."""
    part_of: str = ""
    categories: tuple[str, ...] = ()


@cache
def headings() -> Mapping[str, Heading]:
    """All of them, in the order of tables."""
    path = shipped("results/headings.yaml")
    if path is None:
        raise SweepError("results/headings.yaml is not installed: reinstall adaptinfer-eval")
    found: dict[str, dict[str, Any]] = read_yaml(path.read_bytes(), str(path))
    return {title: _heading(**what) for title, what in found.items()}


def _heading(tasks: Sequence[str] = (), digits: int = 1, part_of: str = "", categories: Sequence[str] = ()) -> Heading:
    return Heading(tuple(tasks), digits, part_of, tuple(categories))


@cache
def _by_task() -> Mapping[str, str]:
    return {task: title for title, known in headings().items() for task in known.tasks}


def heading(task: str) -> str:
    """The papers' heading for a task: `mini_textvqa` → TextVQA; an unknown task keeps its name."""
    return _by_task().get(task, task)


def heading_of(record: Record) -> str:
    """The column that a record stands in: its task's, or that of the part of a score that it was made of."""
    return str(record.get("heading") or heading(record["task"]))


def digits(title: str) -> int:
    """Decimals of a column's numbers."""
    return headings()[title].digits if title in headings() else 1


def in_order(titles: Iterable[str]) -> tuple[str, ...]:
    """The papers' headings in the order of tables, others after them by name."""
    found = set(titles)
    return (*(title for title in headings() if title in found), *sorted(found - headings().keys()))


def headings_of(tasks: Sequence[str]) -> tuple[str, ...]:
    """One column per task; SweepError where two of them would stand in one."""
    found: dict[str, str] = {}
    for task in tasks:
        if (other := found.setdefault(heading(task), task)) != task:
            raise SweepError(f"two tasks stand for {heading(task)} ({other}, {task}): run them in sweeps of their own")
    return tuple(found)
