"""Would a sweep work here? What is looked at, line by line, and what to do where something is not well."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from adaptinfer_eval.doctor.finding import Finding, found_by
from adaptinfer_eval.doctor.versions import imports, versions
from adaptinfer_eval.sweep.config import SweepConfig

__all__ = ["Finding", "examine"]


def examine(config: SweepConfig) -> Iterator[Finding]:
    """Everything that `config` needs, in less than a minute on two CPU cores; nothing is downloaded, nothing raised.

    What libraries print goes to a log, which is kept, and named in the last finding, where something fails.
    """
    folder = Path(tempfile.mkdtemp(prefix="adaptinfer-eval-doctor-"))
    failed = False
    try:
        for finding in _examined(config, folder):
            failed = failed or finding.verdict == "fails"
            yield finding
    finally:
        if not failed:
            shutil.rmtree(folder, ignore_errors=True)
    if failed:
        yield Finding("log", "warning", f"what went wrong in detail: {folder / 'log.txt'}")


def _examined(config: SweepConfig, folder: Path) -> Iterator[Finding]:
    log = folder / "log.txt"
    with log.open("a", encoding="utf-8") as early, contextlib.redirect_stdout(early), contextlib.redirect_stderr(early):
        yield from found_by("versions", versions)
        imported = list(found_by("imports", imports))
        yield from imported
    if any(finding.verdict == "fails" for finding in imported):
        return  # nothing else could be looked at; the lines above say why
    import torch

    from adaptinfer_eval.doctor.checkpoint import checkpoint
    from adaptinfer_eval.doctor.machine import accelerator, disk, flash_attention
    from adaptinfer_eval.doctor.methods import methods, named_by_file
    from adaptinfer_eval.doctor.tasks import tasks
    from adaptinfer_eval.doctor.worker import StartedWorker
    from adaptinfer_eval.sweep.logs import logged_to
    from adaptinfer_eval.sweep.threads import use_threads

    before = torch.get_num_threads()
    use_threads(2)  # the worker that is started meanwhile is the other one
    try:
        with logged_to(log), contextlib.closing(StartedWorker(folder)) as worker:
            yield from found_by("worker", worker.start)
            yield from found_by("accelerator", partial(accelerator, config))
            yield from found_by("flash attention", partial(flash_attention, config))
            yield from found_by("disk", partial(disk, config))
            yield from found_by("checkpoint", partial(checkpoint, config))
            yield from found_by("tasks", partial(tasks, config, folder))
            yield from found_by("methods", partial(methods, folder, named_by_file(config)))
            yield from found_by("worker", worker.stop)
    finally:
        torch.set_num_threads(before)
