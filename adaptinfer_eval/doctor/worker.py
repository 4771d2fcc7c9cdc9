"""A worker process as sweeps have them, started and stopped while other things are looked at."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from adaptinfer_eval.doctor.finding import BROKEN, Finding

SECONDS = 45.0
SLOWER = 6
"""How much slower than the doctor itself a worker may start on a machine that is busy, before it hangs."""


class StartedWorker:
    """`start` finds nothing yet; `stop` finds whether it came up with its model loaded, and ends it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.began = time.monotonic()

    def start(self) -> Iterator[Finding]:
        from adaptinfer_eval.doctor.tiny import ALIKE, tiny_sweep
        from adaptinfer_eval.sweep.pools.processes import Processes, visible_gpus

        config, sources = tiny_sweep(self.folder, ["vanilla"], [ALIKE])
        took = time.monotonic() - self.began
        self.began, self.patience = time.monotonic(), max(SECONDS, SLOWER * took)
        self.pool = Processes(config, sources, 1, visible_gpus())
        yield from ()

    def stop(self) -> Iterator[Finding]:
        from adaptinfer_eval.sweep.worker import Ready

        if not hasattr(self, "pool"):
            return  # `start` has told
        left = self.began + self.patience - time.monotonic()
        received = self.pool.receive(max(0.0, left))
        event = received[1] if received else None
        took = time.monotonic() - self.began
        self.pool.close()
        if isinstance(event, Ready):
            yield Finding("worker", "ok", f"a process of its own loaded the tiny model and ended, within {took:.0f} s")
        elif event is None:
            remedy = "end what keeps the machine busy; pool=inline answers without worker processes"
            yield Finding("worker", "fails", f"was not ready after {took:.0f} s", remedy)
        else:
            yield Finding("worker", "fails", getattr(event, "reason", str(event)), BROKEN)

    def close(self) -> None:
        if hasattr(self, "pool"):
            self.pool.close()
