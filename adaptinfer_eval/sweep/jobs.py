"""What a sweep still has to do: the cells without a result, with the answers that they have already.

A sweep's folder is opened here: all that it holds is compared here, once, with what is asked for now.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from adaptinfer_eval.sweep.cells import Cell, plan
from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.identity import SAME_IN_A_SWEEP, Sources, changes, compare, identity
from adaptinfer_eval.sweep.journal import Journal
from adaptinfer_eval.sweep.records import Record, read_cells, record_path, write_record


@dataclass(frozen=True)
class Job:
    """A cell without a result yet: its identity, and where its answers go."""

    cell: Cell
    identity: Record
    journal: Journal


@dataclass(frozen=True)
class Results:
    """Ids of cells in a folder: those `measured`, and of those asked for, the `finished` ones.

    Finished is what was measured, and what the model cannot run; a failed cell is tried again.
    """

    measured: set[str]
    finished: set[str]


def open_jobs(
    config: SweepConfig, sources: Sources, asked: Mapping[str, Collection[int]], console: Console
) -> tuple[dict[str, Job], set[str]]:
    """Cells without a result, by id, and the ids of all that are measured in the folder.

    Cells that the model cannot run get their record here. `asked`: by task, the documents asked about. SweepError where
    the folder holds another sweep's results or answers.
    """
    output = Path(config.output)
    cells: dict[str, Cell] = {}
    wanted: dict[str, Record] = {}
    refused: dict[str, str] = {}
    for planned in plan(config):
        for name in config.tasks:
            cell = Cell(config.backbone, planned.setting, name)
            schedule = planned.audit.schedule if planned.audit else ""
            cells[cell.id] = cell
            wanted[cell.id] = identity(config, cell, schedule, sources)
            if not planned.runs:
                refused[cell.id] = planned.reason
    results = open_results(output, wanted, {"count": config.count, "per": config.per})
    jobs = {}
    for name, own in wanted.items():
        if name in results.finished:
            continue
        if name in refused:
            write_record(output, cells[name], {"id": name, "status": "cannot run", "reason": refused[name]} | own)
        else:
            jobs[name] = Job(cells[name], own, open_journal(output, name, own))
    for job in jobs.values():
        if unknown := job.journal.done - set(asked[job.cell.task]):
            raise SweepError(
                f"{job.journal.path} has an answer about document {min(unknown)}, which {job.cell.task} does not ask "
                "about: delete its line, or the file, to answer those questions again"
            )
        if job.journal.torn:
            console.print(Text(f"{job.journal.path}: its last line was cut off by a crash and is answered again"))
    return jobs, results.measured


def open_results(output: Path, wanted: Mapping[str, Record], counting: Mapping[str, str]) -> Results:
    """What `output` holds of the cells that are `wanted`, their identities by id; what only failed else is deleted.

    SweepError where it holds results of something else, of whatever cell: tables compare across cells. `counting`: what
    this sweep's budgets mean, where a method's options do not say otherwise.
    """
    same = {key: next(iter(wanted.values()))[key] for key in SAME_IN_A_SWEEP}
    measured, finished, left_over = set(), set(), set()
    for name, found in read_cells(output).items():
        if found["status"] == "done":
            path = record_path(output, name)
            compare(path, found, same)
            said = {key for key in counting if found[key] is None} | found["options"].keys()
            compare(path, found, {key: value for key, value in counting.items() if key not in said})
            compare(path, found, wanted.get(name, {}))
            measured.add(name)
        elif name not in wanted:
            left_over.add(name)
        elif found["status"] == "cannot run" and not changes(found, wanted[name]):
            finished.add(name)
    for name in left_over:
        record_path(output, name).unlink()
    return Results(measured, finished | (measured & wanted.keys()))


def open_journal(output: Path, name: str, wanted: Record) -> Journal:
    """The journal of the cell `name`; SweepError where the answers in it are of something other than `wanted`."""
    journal = Journal(output, name, wanted)
    compare(journal.path, journal.identity, wanted)
    return journal
