"""Workers in processes of this machine, one per GPU or per `gpus_per_worker` GPUs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.forks import context_of_workers
from adaptinfer_eval.sweep.identity import Sources
from adaptinfer_eval.sweep.logs import logged_to
from adaptinfer_eval.sweep.memory import keep_memory
from adaptinfer_eval.sweep.shards import Shard
from adaptinfer_eval.sweep.threads import cores, use_threads
from adaptinfer_eval.sweep.worker import Event, Lost, Worker

SECONDS_TO_END = 5.0


class Processes:
    """Each has a pipe of its own and shares nothing, so that one that is killed takes nothing else with it."""

    def __init__(self, config: SweepConfig, sources: Sources, workers: int, gpus: Sequence[str]) -> None:
        each = config.gpus_per_worker
        if gpus and workers * each > len(gpus):
            raise SweepError(f"{workers} workers with {each} GPUs each need {workers * each}, there are {len(gpus)}")
        self.config, self.sources, self.workers = config, sources, workers
        self.gpus = [gpus[index * each : (index + 1) * each] for index in range(workers)]
        self.pipes: dict[int, Connection] = {}
        self.processes: dict[int, BaseProcess] = {}
        self.events: deque[tuple[int, Event]] = deque()
        for index in range(workers):
            self.restart(index)

    def restart(self, worker: int) -> None:
        context = context_of_workers(self.gpus[worker])
        self.pipes[worker], theirs = context.Pipe()
        given = (self.config, self.sources, worker, self.workers, self.gpus[worker], theirs)
        self.processes[worker] = context.Process(target=_serve, args=given, daemon=True)
        self.processes[worker].start()
        theirs.close()

    def send(self, worker: int, shard: Shard) -> None:
        with contextlib.suppress(OSError):  # one that has just ended, which `receive` will tell
            self.pipes[worker].send(shard)

    def receive(self, seconds: float) -> tuple[int, Event] | None:
        if not self.events:
            ready = wait(list(self.pipes.values()), seconds)
            for worker in [worker for worker, pipe in self.pipes.items() if pipe in ready]:
                self.events.append((worker, self._receive(worker)))
        return self.events.popleft() if self.events else None

    def end(self, worker: int) -> None:
        self.pipes.pop(worker).close()
        self.processes[worker].kill()
        self.processes[worker].join(SECONDS_TO_END)  # not for ever: a driver may hold it

    def _receive(self, worker: int) -> Event:
        try:
            event: Event = self.pipes[worker].recv()
        except (EOFError, OSError):
            del self.pipes[worker]
            process = self.processes[worker]
            process.join(SECONDS_TO_END)
            ended = "does not end" if process.exitcode is None else f"ended with code {process.exitcode}"
            process.kill()
            return Lost(f"its process {ended}, see {_log(self.config, worker)}")
        if isinstance(event, Lost):
            del self.pipes[worker]
        return event

    def close(self) -> None:
        for pipe in self.pipes.values():
            pipe.close()  # a worker without work ends by itself
        deadline = time.monotonic() + SECONDS_TO_END
        for process in self.processes.values():
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
        deadline = time.monotonic() + SECONDS_TO_END
        for process in self.processes.values():
            process.join(max(0.0, deadline - time.monotonic()))


def visible_gpus() -> list[str]:
    """This machine's GPUs, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return [name.strip() for name in named.split(",")][:count]


def _log(config: SweepConfig, worker: int) -> Path:
    return Path(config.output) / f"log.{worker}.txt"


def _serve(
    config: SweepConfig, sources: Sources, index: int, workers: int, gpus: Sequence[str], pipe: Connection
) -> None:
    """One process: shards come in, events go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which ends its workers
    if gpus:  # before CUDA starts, so that this worker's GPUs are all there are for it
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    else:
        keep_memory()
    with logged_to(_log(config, index)):
        print(f"worker {index} of {workers}: {use_threads(workers)} threads on {cores()} cores")
        try:
            worker = Worker(config, sources)
        except SweepError as error:
            pipe.send(Lost(str(error)))
            return
        pipe.send(worker.ready())
        with contextlib.suppress(EOFError, OSError):  # the sweep itself has ended
            while True:
                while worker.idle or pipe.poll():
                    worker.add(pipe.recv())
                for event in worker.events():
                    pipe.send(event)
