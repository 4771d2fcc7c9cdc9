"""One error that hits every cell is told when it has hit some, not when it has hit all."""

from __future__ import annotations

import re

from adaptinfer_eval.sweep.cells import Cell
from adaptinfer_eval.sweep.config import SweepError

REMEDY = "`adaptinfer-eval doctor` says what does not work here and what to do about it"


def reason_of(error: BaseException) -> str:
    """Type and message; of the error itself, where upstream tried again and raises a `RetryError` that names none."""
    cause = error.__cause__ if type(error).__name__ == "RetryError" and error.__cause__ else error
    return f"{type(cause).__name__}: {cause}"


def kind_of(reason: str, cell: Cell) -> str:
    """A reason without what differs from cell to cell: names, numbers, paths, the questions of a batch."""
    for name in (cell.id, cell.setting.label, cell.task, cell.setting.entry.title):
        reason = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "#", reason, flags=re.IGNORECASE)
    reason = re.sub(r"(/[\w.@~-]+)+/?|0x[0-9a-f]+|\b[0-9a-f]{12,}\b|\d+(\.\d+)?", "#", reason[:2000])
    reason = re.sub(r"#([\s,;:x×/-]*#)+", "#", reason)  # a shape is a shape, however many numbers it has
    return re.sub(r"(task #, doc_id #)(; \1)+", r"\1", reason)


class Alike:
    """Watches one kind of work (`doing`) on a sweep's cells; `enough`: how many must have failed before it is told.

    `worked`: it has gone well before, in an earlier run. `tasks`: of how many tasks those that failed must be.
    """

    def __init__(self, doing: str, enough: int, worked: bool, tasks: int = 1) -> None:
        self.doing, self.enough, self.worked, self.tasks = doing, enough, worked, tasks
        self.failed: dict[str, str] = {}
        self.kinds: set[str] = set()
        self.of_tasks: set[str] = set()

    def work(self) -> None:
        """It went well for a cell: whatever fails from now on does not fail for all."""
        self.worked = True

    def fail(self, cell: Cell, reason: str) -> bool:
        """It failed for a cell; whether nothing has failed like this before."""
        kind = kind_of(reason, cell)
        new = kind not in self.kinds
        self.failed[cell.id] = reason
        self.kinds.add(kind)
        self.of_tasks.add(cell.task)
        return new

    def check(self) -> None:
        """SweepError where all cells so far have failed alike."""
        enough = len(self.failed) >= self.enough and len(self.of_tasks) >= self.tasks
        if not self.worked and len(self.kinds) == 1 and enough:
            name, reason = next(iter(self.failed.items()))
            raise SweepError(
                f"stopped: {self.doing} failed alike in every one of the {len(self.failed)} cells tried so far "
                f"({name}: {reason}). {REMEDY}; what is answered stays, and the same command goes on from there"
            )
