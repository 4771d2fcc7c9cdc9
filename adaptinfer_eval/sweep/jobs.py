"""What a sweep still has to do: the cells without a result, with the answers that they have already."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from adaptinfer_eval.sweep.cells import Cell, plan
from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.identity import Sources, identity
from adaptinfer_eval.sweep.journal import Journal
from adaptinfer_eval.sweep.records import Record, check_folder, forget_failures, is_finished, write_record


@dataclass(frozen=True)
class Job:
    """A cell without a result yet: its identity, and where its answers go."""

    cell: Cell
    identity: Record
    journal: Journal


def open_jobs(
    config: SweepConfig, sources: Sources, asked: Mapping[str, Collection[int]], console: Console
) -> dict[str, Job]:
    """Cells without a result, by id; the cells that the model cannot run get their record here.

    `asked`: by task, the documents asked about. SweepError where the folder holds another sweep's results or answers.
    """
    output = Path(config.output)
    wanted: list[tuple[Cell, Record]] = []
    refused: dict[str, str] = {}
    for planned in plan(config):
        for name in config.tasks:
            cell = Cell(config.backbone, planned.setting, name)
            schedule = planned.audit.schedule if planned.audit else ""
            own = identity(config, cell, schedule, sources)
            wanted.append((cell, own))
            if planned.audit is None:
                refused[cell.id] = planned.reason
    check_folder(output, wanted[0][1], {"count": config.count, "per": config.per})
    forget_failures(output, {cell.id for cell, _ in wanted})
    jobs = {}
    for cell, own in wanted:
        if is_finished(output, cell, own):
            continue
        if cell.id in refused:
            head = {"id": cell.id, "status": "cannot run", "reason": refused[cell.id]}
            write_record(output, cell, head | own)
        else:
            jobs[cell.id] = Job(cell, own, Journal(output, cell.id, own))
    for job in jobs.values():
        if unknown := job.journal.done - set(asked[job.cell.task]):
            raise SweepError(
                f"{job.journal.path} has an answer about document {min(unknown)}, which {job.cell.task} does not ask "
                "about: delete its line, or the file, to answer those questions again"
            )
        if job.journal.torn:
            console.print(Text(f"{job.journal.path}: its last line was cut off by a crash and is answered again"))
    return jobs
