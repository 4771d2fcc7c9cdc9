"""Which tasks there are, from the YAML files of lmms-eval and of this package, without importing lmms-eval.

Only what a file says in its own first column is read. That settles nearly all tasks; where it does not (a name that is
included from another file, or that there is not), lmms-eval's own index has to be asked, which takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from adaptinfer_eval.sweep.config import SweepError, shipped

_KEY = re.compile(rb"""^["']?(task|group|class)["']?[ \t]*:[ \t]*["']?([^\s"'#]*)""", re.MULTILINE)


def task_files(names: Collection[str]) -> dict[str, Path]:
    """The files of those of `names` that are certainly tasks; of the others lmms-eval has to be asked."""
    upstream = find_spec("lmms_eval")
    places = upstream.submodule_search_locations if upstream else None
    found: dict[str, Path] = {}
    for folder in (shipped("tasks"), Path(places[0], "tasks") if places else None):
        if folder and not set(names) <= found.keys():
            found = tasks_in(folder) | found
    return {name: found[name] for name in names if name in found}


def tasks_in(folder: Path) -> dict[str, Path]:
    """Files in `folder` by the name that they give to a task, and none to a group."""
    tasks: dict[str, Path] = {}
    others: set[str | None] = set()
    for path in folder.rglob("*.yaml"):
        found = {key.decode(): name.decode() for key, name in _KEY.findall(path.read_bytes())}
        if found.get("task") and "class" not in found:
            tasks[found["task"]] = path
        else:  # a list of tasks, or a task in Python
            others |= {found.get("group"), found.get("task")}
    return {name: path for name, path in tasks.items() if name not in others}


class _Loader(yaml.SafeLoader):
    """Reads no functions: `!function utils.score` is None."""


_Loader.add_multi_constructor("!", lambda *_: None)


def description(path: Path) -> dict[str, Any]:
    """What a task's file says, and those that it includes, but for functions."""
    told = _read(path)
    included = told.pop("include", [])
    for name in [included] if isinstance(included, str) else included:  # the first counts most, after the file itself
        told = description(path.parent / name) | told
    return told


def data_files(path: Path) -> Iterator[Path]:
    """The local files that a task's file names as its data set; without those of included files."""
    options = _read(path).get("dataset_kwargs") or {}
    local = description(path).get("dataset_path") in ("arrow", "csv", "json", "pandas", "parquet", "text")
    waiting = [options.get("data_files")] if local and "data_dir" not in options else []
    while waiting:
        named = waiting.pop()
        if isinstance(named, str):
            if not re.search(r"://|[*?[]", named):  # an address, or a pattern
                beside = path.parent / named
                yield beside if beside.is_file() or not Path(named).is_file() else Path(named)
        elif named:
            waiting += named.values() if isinstance(named, dict) else named


def _read(path: Path) -> dict[str, Any]:
    try:
        told = yaml.load(path.read_bytes(), _Loader)  # a safe one
    except yaml.YAMLError as error:
        raise SweepError(f"{path} is damaged ({' '.join(str(error).split())}): mend or restore it") from error
    if not isinstance(told, dict):
        raise SweepError(f"{path} describes no task: mend or restore it")
    return told
