"""Run a sweep: what is finished stays, the rest is answered by a pool's workers, journaled, scored and recorded."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from adaptinfer_eval.models.requests import Request
from adaptinfer_eval.sweep.alike import Alike, reason_of
from adaptinfer_eval.sweep.canned import unscorable
from adaptinfer_eval.sweep.cells import Cell, in_order_of_stages, settings
from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.dispatch import dispatch
from adaptinfer_eval.sweep.files import about_the_folder, explained, write_text
from adaptinfer_eval.sweep.identity import Sources
from adaptinfer_eval.sweep.jobs import Job, open_jobs
from adaptinfer_eval.sweep.journal import Gone, only_run
from adaptinfer_eval.sweep.logs import logged_to
from adaptinfer_eval.sweep.pools import open_pool
from adaptinfer_eval.sweep.progress import progress_bar
from adaptinfer_eval.sweep.records import Record, write_record
from adaptinfer_eval.sweep.shape import check_checkpoint, model_shape
from adaptinfer_eval.sweep.shards import ShardQueue, in_batches, one_question_first, shards
from adaptinfer_eval.sweep.tasks import load_tasks, questions
from adaptinfer_eval.sweep.worker import Answered, Failed, Lost, Ready

FEW = 3
"""Cells that must have failed alike, and none gone well in this run or an earlier one, before a sweep is stopped; all,
if there are fewer."""


@dataclass(frozen=True)
class Failure:
    """A cell that could not be measured, and why."""

    cell: str
    reason: str


def run_sweep(
    config: SweepConfig, console: Console, recorded: Callable[[SweepConfig, Mapping[str, Any]], None] | None = None
) -> list[Failure]:
    """Measure every cell that has no record yet, with progress on `console`; returns the cells that failed.

    A setting that the model cannot run is recorded as such and is no failure. SweepError where the folder holds
    another sweep's results or another run is writing to it, where the model cannot be loaded, where the disk is full or
    the folder cannot be written to, and where every cell fails alike; what was answered until then stays. `recorded` is
    called with lmms-eval's loaded tasks when all is written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SweepError("a sweep starts its own processes: run it without torchrun, with workers=N")
    settings(config)  # a method that does not exist is told before any data is loaded
    check_checkpoint(config)
    output = Path(config.output)
    with _trouble_with_files_told(output), only_run(output) as check, logged_to(output / "log.txt"):
        console.print(Text(f"{config.name}: loading tasks; log: {output / 'log.txt'}"), soft_wrap=True)
        manager, tasks = load_tasks(config)
        asked = {name: questions(name, task, config.limit) for name, task in tasks.items()}
        sources = Sources.read(config, tasks, asked)
        jobs, measured = open_jobs(config, sources, asked, console)
        write_text(output / "config.yaml", config.dump())
        with (
            progress_bar(console, "requests", "{task.fields[done]}/{task.fields[cells]} cells") as progress,
            closing(_Run(config, sources, manager, tasks, asked, jobs, measured, progress, check)) as run,
        ):
            failures = run.go()
        if recorded is not None:
            recorded(config, tasks)
        return failures


class _Run:
    """The part of a sweep between its first answer and its last record."""

    def __init__(
        self,
        config: SweepConfig,
        sources: Sources,
        manager: Any,
        tasks: Mapping[str, Any],
        asked: Mapping[str, Mapping[int, Request]],
        jobs: Mapping[str, Job],
        measured: Collection[str],
        progress: Progress,
        check: Callable[[], None],
    ) -> None:
        """`measured`: ids of the cells that are done. `check` raises once the sweep's folder is not there any more."""
        self.config, self.sources = config, sources
        self.manager, self.tasks, self.asked = manager, tasks, asked
        self.open, self.cells = dict(jobs), len(jobs)
        self.failures: dict[str, Failure] = {}
        self.scorer = ThreadPoolExecutor(1)  # upstream's scoring takes a while, in which workers are to be fed
        self.scoring: dict[str, Future[Record]] = {}
        self.progress, self.check = progress, check
        done = {name: job.journal.done for name, job in jobs.items()}
        cells = in_order_of_stages([job.cell for job in jobs.values()], model_shape(config), config.images)
        answered = {
            cell.setting.label
            for cell in (Cell(config.backbone, setting, name) for setting in settings(config) for name in tasks)
            if cell.id in measured or done.get(cell.id)
        }
        in_order = shards(in_batches(sources.pin(config), tasks, asked), cells, done)
        self.shards = one_question_first(in_order, answered)
        every_setting = len({cell.setting.label for cell in cells})
        self.answering = Alike(
            "answering", enough=min(len(cells), max(FEW, every_setting)), worked=bool(measured or answered)
        )
        several = min(2, len({cell.task for cell in cells}))  # tasks go one after the other, and are scored differently
        self.scored = Alike("scoring", enough=min(len(cells), FEW), worked=bool(measured), tasks=several)
        total = sum(len(shard.docs) * len(shard.cells) for shard in self.shards)
        self.bar = progress.add_task("loading the model", total=total, cells=self.cells, done=0)

    def close(self) -> None:
        self.scorer.shutdown(cancel_futures=True)

    def go(self) -> list[Failure]:
        for name in list(self.open):
            self._score_if_complete(name)
        self._record(wait=True)
        if self.shards:
            self._check_scoring()
        if self.shards:
            self._answer()
        self._record(wait=True)
        for name in list(self.open):
            self._fail(name, "no worker is left: start the sweep again to go on")
        self.check()
        return list(self.failures.values())

    def _check_scoring(self) -> None:
        """Fail the cells whose answers could not be scored, before any is made."""
        broken = unscorable(self.config, self.shards, self.asked, self.manager, self.tasks, self.scored.worked)
        for job in list(self.open.values()):
            if job.cell.task in broken:
                self._fail(job.cell.id, broken[job.cell.task])
        for name, reason in broken.items():
            self._show(f"failed: {name}: {reason}")
        self.shards = [shard for shard in self.shards if shard.task not in broken]

    def _answer(self) -> None:
        ready, reason = False, ""
        with closing(open_pool(self.config, self.sources, len(self.shards), self._show)) as pool:
            queue = ShardQueue(self.shards, pool.workers)
            for event in dispatch(pool, queue, self.config.worker_timeout):
                if isinstance(event, Ready):
                    ready = True
                    self._refuse(event.cannot_run, queue)
                elif isinstance(event, Answered):
                    self.answering.work()
                    self._keep(event, queue)
                    # One worker may be in this process, and scoring sets the seeds of random numbers.
                    self._record(wait=pool.workers == 1)
                elif isinstance(event, Failed):
                    self._fail(event.cell.id, event.reason, self.answering)
                else:
                    reason = event.reason
                    self._show(f"a worker is gone: {reason}" if isinstance(event, Lost) else reason)
        if not ready:
            raise SweepError(reason)

    def _show(self, text: str) -> None:
        self.progress.console.print(Text(text))  # as it is: names and errors may look like markup

    def _keep(self, event: Answered, queue: ShardQueue) -> None:
        if event.cell.id not in self.open:
            return
        self.check()
        try:
            self.open[event.cell.id].journal.write(event.worker, event.answers)
        except ValueError as error:
            queue.drop(event.cell.id)
            self._fail(event.cell.id, f"its answers cannot be written down: {error}")
            return
        description = f"{event.cell.setting.label} {event.cell.task}"
        self.progress.update(self.bar, advance=len(event.answers), description=description)
        self._score_if_complete(event.cell.id)

    def _score_if_complete(self, name: str) -> None:
        job = self.open[name]
        if job.journal.done >= self.asked[job.cell.task].keys():
            from adaptinfer_eval.sweep.score import measure

            task = self.tasks[job.cell.task]
            self.scoring[name] = self.scorer.submit(measure, self.config, job.cell, job.journal, self.manager, task)

    def _record(self, wait: bool) -> None:
        """Write down the cells that are scored; with `wait`, all that are being scored."""
        for name in [name for name, future in self.scoring.items() if wait or future.done()]:
            try:
                measured = self.scoring.pop(name).result()
            except Exception as error:
                if isinstance(error, Gone) or about_the_folder(error, Path(self.config.output)):
                    raise
                traceback.print_exc()
                self._fail(name, reason_of(error), self.scored)
            else:
                self.scored.work()
                self._write(self.open[name], "done", "", measured)

    def _refuse(self, reasons: Mapping[str, str], queue: ShardQueue) -> None:
        for job in list(self.open.values()):
            if job.cell.setting.label in reasons:
                queue.drop(job.cell.id)
                self._write(job, "cannot run", reasons[job.cell.setting.label])

    def _fail(self, name: str, reason: str, of: Alike | None = None) -> None:
        """`of`: the work that failed; SweepError where it has failed alike in all cells so far, and some are left."""
        if name in self.open:
            job = self.open[name]
            self.failures[name] = Failure(name, reason)
            self._write(job, "failed", reason)
            if of is not None and of.fail(job.cell, reason):
                self._show(f"failed: {name}: {reason}")
            if of is not None and self.open:
                of.check()

    def _write(self, job: Job, status: str, reason: str, measured: Record | None = None) -> None:
        asked = len(self.asked[job.cell.task])
        counts = {"questions": asked, "questions_available": len(self.tasks[job.cell.task].eval_docs)}
        self.check()
        head = {"id": job.cell.id, "status": status, "reason": reason}
        write_record(Path(self.config.output), job.cell, head | job.identity | counts | (measured or {}))
        del self.open[job.cell.id]
        (bar,) = self.progress.tasks
        total = (bar.total or 0) - (asked - len(job.journal.done))  # what is missing will not be asked any more
        self.progress.update(self.bar, total=total, done=self.cells - len(self.open))


@contextmanager
def _trouble_with_files_told(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not about_the_folder(error, output):
            raise
        raise SweepError(f"{explained(error)} and start the sweep again: it goes on from here") from error
