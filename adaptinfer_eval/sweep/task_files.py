"""Which tasks there are, from the YAML files of lmms-eval and of this package, without importing lmms-eval.

Only what a file says in its own first column is read. That settles nearly all tasks; where it does not (a name that is
included from another file, or that there is not), lmms-eval's own index has to be asked, which takes seconds.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from adaptinfer_eval.sweep.config import shipped

_KEY = re.compile(rb"""^["']?(task|group|class)["']?[ \t]*:[ \t]*["']?([^\s"'#]*)""", re.MULTILINE)


def are_tasks(names: Collection[str]) -> bool:
    """Whether every one of `names` is certainly a task; False: lmms-eval has to be asked."""
    ours = shipped("tasks")
    upstream = find_spec("lmms_eval")
    left = set(names)
    if ours:
        left -= tasks_in(ours)
    if left and upstream and upstream.submodule_search_locations:
        left -= tasks_in(Path(upstream.submodule_search_locations[0], "tasks"))
    return not left


def tasks_in(folder: Path) -> set[str]:
    """Names that files in `folder` give to a task, and none to a group."""
    tasks, others = set(), set()
    for path in folder.rglob("*.yaml"):
        found = {key.decode(): name.decode() for key, name in _KEY.findall(path.read_bytes())}
        if found.get("task") and "class" not in found:
            tasks.add(found["task"])
        else:  # a list of tasks, or a task in Python
            others |= {found.get("group"), found.get("task")}
    return tasks - others
