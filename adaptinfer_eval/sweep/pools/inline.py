"""One worker in this process."""

from __future__ import annotations

from collections.abc import Generator

import torch

from adaptinfer_eval.sweep.config import SweepConfig
from adaptinfer_eval.sweep.identity import Sources
from adaptinfer_eval.sweep.shards import Shard
from adaptinfer_eval.sweep.threads import cores, use_threads
from adaptinfer_eval.sweep.worker import Event, Worker


class Inline:
    """Works while it is asked for the next event."""

    workers = 1

    def __init__(self, config: SweepConfig, sources: Sources) -> None:
        self.worker = Worker(config, sources)
        self._threads_before = torch.get_num_threads()
        print(f"one worker: {use_threads(1)} threads on {cores()} cores")
        self._events = self._work()

    def send(self, worker: int, shard: Shard) -> None:
        self.worker.add(shard)

    def receive(self) -> tuple[int, Event]:
        return 0, next(self._events)

    def restart(self, worker: int) -> None:
        raise AssertionError("a worker in this process is not lost")

    def close(self) -> None:
        self._events.close()
        torch.set_num_threads(self._threads_before)  # the process is not this sweep's alone

    def _work(self) -> Generator[Event, None, None]:
        yield self.worker.ready()
        while True:
            yield from self.worker.events()
