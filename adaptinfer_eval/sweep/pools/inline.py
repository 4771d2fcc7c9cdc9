"""One worker in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator

import torch

from adaptinfer_eval.sweep.config import SweepConfig
from adaptinfer_eval.sweep.identity import Sources
from adaptinfer_eval.sweep.shards import Shard
from adaptinfer_eval.sweep.threads import cores, use_threads
from adaptinfer_eval.sweep.worker import Event, Worker


class Inline:
    """Works while it is asked for the next event, so nobody can end it where it hangs: `show` is told."""

    workers = 1

    def __init__(self, config: SweepConfig, sources: Sources, show: Callable[[str], None]) -> None:
        self.seconds, self.show = config.worker_timeout, show
        self.worker = Worker(config, sources)
        self._threads_before = torch.get_num_threads()
        print(f"one worker: {use_threads(1)} threads on {cores()} cores")
        self._events = self._work()

    def send(self, worker: int, shard: Shard) -> None:
        self.worker.add(shard)

    def receive(self, seconds: float) -> tuple[int, Event]:
        hung = (
            f"no answer for {self.seconds:g} s (worker_timeout), and a worker in this process cannot be ended: go on "
            "waiting, or stop the sweep (Ctrl-C) and start it again with pool=processes"
        )
        watch = threading.Timer(self.seconds, self.show, [hung])
        watch.daemon = True
        watch.start()
        try:
            return 0, next(self._events)
        finally:
            watch.cancel()

    def end(self, worker: int) -> None:
        raise AssertionError("a worker in this process cannot be ended")

    def restart(self, worker: int) -> None:
        raise AssertionError("a worker in this process is not lost")

    def close(self) -> None:
        self._events.close()
        torch.set_num_threads(self._threads_before)  # the process is not this sweep's alone

    def _work(self) -> Generator[Event, None, None]:
        yield self.worker.ready()
        while True:
            yield from self.worker.events()
