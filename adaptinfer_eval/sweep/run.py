"""Run a sweep: what is finished stays, the rest goes to a model here or in each of several processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import rich.progress
from rich.console import Console

from adaptinfer_eval.sweep.cells import Cell, plan
from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.evaluate import Evaluator, Outcome, logged_to
from adaptinfer_eval.sweep.records import (
    Record,
    check_folder,
    checkpoint_digest,
    identity,
    is_finished,
    write_record,
    write_text,
)
from adaptinfer_eval.sweep.tasks import data_digest, load_tasks, question_counts

Job = tuple[Cell, Record]
OnAnswers = Callable[[int], None]


def run_sweep(config: SweepConfig, console: Console) -> list[Outcome]:
    """Measure every cell that has no record yet, with progress on `console`; returns the cells that failed.

    A setting that the model cannot run is recorded as such and is no failure. SweepError where the output
    folder holds another sweep's records, and where the model cannot be loaded.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SweepError("a sweep starts its own processes: run it without torchrun, with workers=N")
    output = Path(config.output)
    log = output / "log.txt"
    console.print(f"{config.name}: loading tasks; log: {log}", highlight=False, soft_wrap=True)
    with logged_to(log):
        _, tasks = load_tasks(config)
        data = {name: data_digest(task, config.limit) for name, task in tasks.items()}
    jobs = _jobs(config, data)
    write_text(output / "config.yaml", config.dump())
    questions = {name: question_counts(task, config.limit)[0] for name, task in tasks.items()}
    failed = []
    with _progress(console) as progress:
        requests = sum(questions[cell.task] for cell, _ in jobs)
        bar = progress.add_task("loading the model", total=requests, cells=len(jobs), done=0)

        def on_answers(count: int) -> None:
            progress.advance(bar, count)

        workers = min(config.workers, len(jobs))
        run = _in_processes(config, jobs, workers, on_answers) if workers > 1 else _here(config, jobs, on_answers)
        for done, outcome in enumerate(run, 1):
            if outcome.status != "done":
                requests -= questions[outcome.cell.task]
            if outcome.status == "failed":
                failed.append(outcome)
            progress.update(
                bar, description=f"{outcome.cell.setting.label} {outcome.cell.task}", done=done, total=requests
            )
    return failed


def _jobs(config: SweepConfig, data: dict[str, str]) -> list[Job]:
    """Cells without a result; the cells that the model cannot run get their record here."""
    output = Path(config.output)
    checkpoint = checkpoint_digest(config.checkpoint, config.model_args.get("revision"))
    jobs: list[Job] = []
    refused: list[tuple[Cell, Record]] = []
    for planned in plan(config):
        for name in config.tasks:
            cell = Cell(config.backbone, planned.setting, name)
            schedule = planned.audit.schedule if planned.audit else ""
            wanted = identity(config, cell, schedule, checkpoint, data[name])
            if planned.audit is None:
                head = {"id": cell.id, "status": "cannot run", "reason": planned.reason}
                refused.append((cell, head | wanted))
            else:
                jobs.append((cell, wanted))
    check_folder(output, (jobs or refused)[0][1])
    jobs = [(cell, wanted) for cell, wanted in jobs if not is_finished(output, cell, wanted)]
    for cell, record in refused:
        write_record(output, cell, record)
    return jobs


def _progress(console: Console) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.fields[done]}/{task.fields[cells]} cells"),
        rich.progress.BarColumn(10),
        rich.progress.TextColumn("{task.completed}/{task.total:.0f} requests"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.description}"),
        console=console,
    )


def _here(config: SweepConfig, jobs: Sequence[Job], on_answers: OnAnswers) -> Iterator[Outcome]:
    log = Path(config.output) / "log.txt"
    if jobs:
        with logged_to(log):
            evaluator = _load(config, None, on_answers)
    for job in jobs:
        with logged_to(log):
            outcome = evaluator.finish(*job)
        yield outcome


def _load(config: SweepConfig, device: str | None, on_answers: OnAnswers) -> Evaluator:
    try:
        return Evaluator(config, device, on_answers)
    except Exception as error:
        traceback.print_exc()
        raise SweepError(f"{config.pretrained} could not be loaded: {type(error).__name__}: {error}") from error


def _in_processes(config: SweepConfig, jobs: Sequence[Job], workers: int, on_answers: OnAnswers) -> Iterator[Outcome]:
    """Every process loads the model once and is handed one cell after the other, over a pipe of its own.

    Nothing is shared between processes, so that one that is killed costs the cell it was at and nothing else.
    """
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, BaseProcess] = {}
    for index in range(workers):
        ours, theirs = context.Pipe()
        processes[ours] = context.Process(target=_serve, args=(config, index, workers, theirs), daemon=True)
        processes[ours].start()
        theirs.close()
    left = deque(jobs)
    at: dict[Connection, Job] = {}
    try:
        while processes:
            for pipe in wait(list(processes)):
                assert isinstance(pipe, Connection)
                try:
                    message = pipe.recv()
                except (EOFError, OSError):
                    process = processes.pop(pipe)
                    process.join()
                    if pipe in at:
                        yield _lost(config, *at.pop(pipe), f"its process ended (exit code {process.exitcode})")
                    continue
                if isinstance(message, int):
                    on_answers(message)
                    continue
                if isinstance(message, SweepError):
                    raise message
                if isinstance(message, Outcome):
                    del at[pipe]
                    yield message
                if left:
                    at[pipe] = left.popleft()
                with contextlib.suppress(OSError):  # one that has just ended is noticed by its pipe's end
                    pipe.send(at.get(pipe))
    finally:
        for process in processes.values():
            process.terminate()
    for job in left:
        yield _lost(config, *job, "every process has ended")


def _lost(config: SweepConfig, cell: Cell, wanted: Record, reason: str) -> Outcome:
    if is_finished(Path(config.output), cell, wanted):  # its record was written, only the news got lost
        return Outcome(cell, "done")
    return Outcome(cell, "failed", f"{reason}: start the sweep again to go on")


def _serve(config: SweepConfig, index: int, workers: int, pipe: Connection) -> None:
    """One process. Sends None when it is ready, numbers of answers, outcomes, or why it could not start."""
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    gpus = torch.cuda.device_count()
    with logged_to(Path(config.output) / f"log.{index}.txt"):
        try:
            evaluator = _load(config, f"cuda:{index % gpus}" if gpus else "cpu", pipe.send)
        except SweepError as error:
            pipe.send(error)
            return
        pipe.send(None)
        while (job := pipe.recv()) is not None:
            pipe.send(evaluator.finish(*job))
