"""Where workers on CPUs come from: a process that has imported what they need, while the sweep itself got ready."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptinfer_eval.sweep.config import SweepConfig

DRIVERS = [Path("/dev/nvidiactl"), Path("/dev/kfd")]
"""There where a GPU of NVIDIA's or AMD's may be: looked at before torch is loaded, which would know."""


def import_ahead(config: SweepConfig) -> None:
    """Let another core import what the workers of `config` will need, if they are to be processes without GPUs."""
    several = config.pool in (None, "processes") and (config.workers or 1) > 1
    if several and not any(driver.exists() for driver in DRIVERS):
        _forking()


def context_of_workers(gpus: Sequence[str]) -> SpawnContext | ForkServerContext:
    """How their processes start: forked, where there are no `gpus`; a GPU's driver may not survive that."""
    return multiprocessing.get_context("spawn") if gpus else _forking()


def _forking() -> SpawnContext | ForkServerContext:
    """Where a process to fork from cannot be had (its socket has too long a path), they start by themselves."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["adaptinfer_eval.sweep.imports"])
    resource_tracker.ensure_running()  # it changes the signals itself
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the sweep, which ends them all
    try:
        forkserver.ensure_running()
    except OSError:
        return multiprocessing.get_context("spawn")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context
