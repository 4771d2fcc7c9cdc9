"""What has been added up of a task so far, on the disk after every batch: a pass that is killed goes on from there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.sweep.files import file_name, write_text
from adaptinfer_eval.sweep.identity import changes

ELSEWHERE = "give another folder (shift --output, figure 2 --results, calibrate --output)"


@dataclass
class Sums:
    """Of the samples of a task, `done` so far in their fixed order: `total` of what was measured of each.

    `total` is None before the first that could be measured. `left_out`: those that could not, by reason. The file is as
    large for a thousand samples as for one.
    """

    path: Path
    identity: Mapping[str, Any]
    done: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    total: NDArray[Any] | None = None

    @property
    def measured(self) -> int:
        return self.done - self.left_out.total()

    def add(self, measured: NDArray[Any], reasons: Sequence[str]) -> None:
        """Add a batch: `measured` (B, …), and for each sample the reason why it does not count, empty where it does.

        On the disk when this returns, all of it or nothing.
        """
        good = [number for number, reason in enumerate(reasons) if not reason]
        if good:
            added = measured[good].sum(0)
            self.total = added if self.total is None else self.total + added
        self.left_out.update(reason for reason in reasons if reason)
        self.done += len(reasons)
        total = None if self.total is None else self.total.tolist()
        state = {"identity": self.identity, "done": self.done, "left_out": self.left_out, "total": total}
        write_text(self.path, json.dumps(state, allow_nan=False))


def open_sums(folder: Path, task: str, identity: Mapping[str, Any]) -> Sums:
    """What is in `folder` of `task`. SweepError where it is damaged, or was measured with something else."""
    path = folder / "sums" / f"{file_name(task)}.json"
    if not path.exists():
        return Sums(path, identity)
    try:
        state = json.loads(path.read_bytes())
        total = None if state["total"] is None else np.array(state["total"])
        found = Sums(path, state["identity"], int(state["done"]), Counter(state["left_out"]), total)
    except (ValueError, KeyError, TypeError) as error:
        raise SweepError(f"{path} is damaged ({error}): delete it to measure {task} again") from error
    if changed := changes(found.identity, identity):
        raise SweepError(
            f"{path} was measured with something else ({changed}): "
            f"{ELSEWHERE}, or delete {path.parent} to measure again"
        )
    return found


def check_same_tasks(folder: Path, tasks: Sequence[str]) -> None:
    """SweepError where `folder` holds tasks that are not asked for now: its results would be without them."""
    there = {path.name for path in (folder / "sums").glob("*.json")}
    if left := sorted(there - {f"{file_name(task)}.json" for task in tasks}):
        names = ", ".join(name.removesuffix(".json") for name in left)
        raise SweepError(f"{folder} is about {names} too: name it among the tasks, or {ELSEWHERE}")
