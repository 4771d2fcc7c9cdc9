"""Numbers that papers print, from results/published*.yaml, and whether a sweep may be compared with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from adaptinfer_eval.report.averages import RATIO as RATIO
from adaptinfer_eval.report.averages import Average, decimals
from adaptinfer_eval.report.headings import Record, heading_of
from adaptinfer_eval.report.layouts import Layout
from adaptinfer_eval.report.rows import Line
from adaptinfer_eval.sweep.config import SweepError, nearest, read_yaml, shipped

FILES = ("results/published.yaml", "results/published_more.yaml")
OWN_TASKS = "adaptinfer_"
"""How tasks begin that ask and score as the papers do; upstream's own and the mini tasks do not."""
INPUT = {"image_aspect_ratio": "pad", "conv": "vicuna_v1"}
"""What the published models were given, of LLaVA's model_args; as by default."""
NOT_INPUT = {"attn_implementation", "revision"}
"""Model_args that do not change what a model is given."""


@dataclass(frozen=True)
class Published:
    """A table of one lineage: rows[name][tokens] has a number, or None where none is printed, for every column."""

    source: str
    model: str
    count: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[float, Sequence[float | None]]]
    average: Average | None = None
    """What its last column is made of; None: it has no average."""
    tasks: tuple[str, ...] | None = None
    """Of lmms-eval, which were asked; None: tasks with the papers' own settings."""
    model_args: Mapping[str, Any] | None = None
    """What the model was given, beside `INPUT`."""

    def row(self, line: Line) -> dict[str, float]:
        """By heading, and under RATIO the accuracy ratio; empty where nothing is published for the line."""
        tokens = self.tokens(line)
        return {} if tokens is None else self.numbers(line.place.name, tokens)

    def tokens(self, line: Line) -> float | None:
        """Under how many tokens the line's numbers are published; None where none are."""
        by_tokens = self.rows.get(line.place.name, {})
        if line.method == "vanilla" and len(by_tokens) == 1:  # its tokens are the model's: there is no other budget
            return next(iter(by_tokens))
        return line.tokens if line.tokens in by_tokens else None

    def numbers(self, name: str, tokens: float) -> dict[str, float]:
        return {title: n for title, n in zip(self.columns, self.rows[name][tokens], strict=True) if n is not None}

    @property
    def vanilla(self) -> dict[str, float]:
        return next((self.numbers("vanilla", tokens) for tokens in self.rows.get("vanilla", ())), {})

    def lines(self) -> Iterator[tuple[str, float]]:
        """Name and tokens of every row."""
        return ((name, tokens) for name, by_tokens in self.rows.items() for tokens in by_tokens)

    def misfit(self, name: str, tokens: float) -> float | None:
        """The average of a row's numbers, where that is not the one which is printed, but for rounding."""
        numbers = self.numbers(name, tokens)
        if self.average is None or self.average.column not in numbers:
            return None
        made = self.average.value(numbers, self.vanilla)
        allowed = self.average.rounding(self.vanilla, self.digits())
        return made if made is not None and abs(made - numbers[self.average.column]) > allowed + 1e-9 else None

    def digits(self) -> dict[str, int]:
        return decimals(self.columns, [row for rows in self.rows.values() for row in rows.values()])

    def mismatch(self, records: Sequence[Record]) -> str:
        """Why the sweep is not a measurement of what is published; empty where it is."""
        if harness := next((r["harness"] for r in records if r.get("harness", "lmms-eval") != "lmms-eval"), None):
            return f"they are scores of lmms-eval, and the sweep's harness is {harness}"
        models = {record["checkpoint"].split("@")[0] for record in records}
        if models - {self.model}:
            return f"they are of {self.model}, and the sweep's checkpoint is {records[0]['pretrained']}"
        counts = {record["count"] for record in records} - {None}
        if counts - {self.count}:
            return f"their budgets count tokens {self.count}, and the sweep's tokens {', '.join(sorted(counts))}"
        wanted = {**INPUT, **(self.model_args or {})}
        given = {(key, value) for record in records for key, value in record["model_args"].items()}
        changed = sorted(f"{key}={value}" for key, value in given - wanted.items() if key not in NOT_INPUT)
        if changed:
            return f"the sweep's model_args ({', '.join(changed)}) change what the model is given"
        lacking = {key for record in records for key in (self.model_args or {}) if key not in record["model_args"]}
        if lacking:
            said = ", ".join(f"{key}={wanted[key]}" for key in sorted(lacking))
            return f"they are of a model given {said}, which the sweep's model_args do not say"
        return self._other_tasks({record["task"] for record in records if heading_of(record) in self.columns})

    def _other_tasks(self, asked: set[str]) -> str:
        if self.tasks is None:
            named, other = f"{OWN_TASKS}…", sorted(task for task in asked if not task.startswith(OWN_TASKS))
        else:
            named, other = ", ".join(self.tasks) or "another harness", sorted(asked - set(self.tasks))
        return f"they are of the tasks {named}, and the sweep's tasks are others: {', '.join(other)}" if other else ""


def published(layout: Layout, lineage: str) -> Published | None:
    """What `lineage` prints for the table; None where it prints nothing. SweepError where there is no such lineage."""
    found = read_published()
    if lineage not in found:
        raise SweepError(f"no lineage {lineage!r} in published.yaml{nearest(lineage, found)}")
    block = found[lineage]["tables"].get(layout.published.get(lineage, layout.config))
    return None if block is None else make_published(found[lineage]["source"], block)


def make_published(source: str, block: Mapping[str, Any]) -> Published:
    columns = tuple(block["columns"])
    return Published(
        source=source,
        model=block["model"],
        count=block["count"],
        columns=columns,
        rows=block["rows"],
        average=_average(columns, block.get("average")),
        tasks=tuple(block["tasks"]) if "tasks" in block else None,
        model_args=block.get("model_args"),
    )


def _average(columns: Sequence[str], told: Mapping[str, Any] | None) -> Average | None:
    """As it is told, or the mean relative to vanilla where the last column is one."""
    told = told or ({"column": RATIO} if RATIO in columns else None)
    if told is None:
        return None
    of = told.get("of", [title for title in columns if title != told["column"]])
    return Average(told["column"], tuple(of), told.get("divide", {}))


@cache
def read_published() -> dict[str, Any]:
    """All lineages: what results/published.yaml and its continuation say."""
    found: dict[str, Any] = {}
    for name in FILES:
        path = shipped(name)
        if path is None:
            raise SweepError(f"{name} is not installed: reinstall adaptinfer-eval")
        found |= read_yaml(path.read_bytes(), str(path))
    return found
