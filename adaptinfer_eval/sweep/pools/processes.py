"""Workers in processes of this machine, one per GPU or per `gpus_per_worker` GPUs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.logs import logged_to
from adaptinfer_eval.sweep.shards import Shard
from adaptinfer_eval.sweep.worker import Event, Lost, Worker


class Processes:
    """Each has a pipe of its own and shares nothing, so that one that is killed takes nothing else with it."""

    def __init__(self, config: SweepConfig, workers: int, gpus: Sequence[str]) -> None:
        each = config.gpus_per_worker
        if gpus and workers * each > len(gpus):
            raise SweepError(f"{workers} workers with {each} GPUs each need {workers * each}, there are {len(gpus)}")
        context = multiprocessing.get_context("spawn")
        self.workers = workers
        self.pipes: dict[Connection, int] = {}
        self.processes: list[BaseProcess] = []
        self.events: deque[tuple[int, Event]] = deque()
        for index in range(workers):
            ours, theirs = context.Pipe()
            own = gpus[index * each : (index + 1) * each]
            process = context.Process(target=_serve, args=(config, index, workers, own, theirs), daemon=True)
            process.start()
            theirs.close()
            self.pipes[ours] = index
            self.processes.append(process)

    def send(self, worker: int, shard: Shard) -> None:
        pipe = next(pipe for pipe, index in self.pipes.items() if index == worker)
        with contextlib.suppress(OSError):  # one that has just ended, which `receive` will tell
            pipe.send(shard)

    def receive(self) -> tuple[int, Event]:
        while not self.events:
            for pipe in wait(list(self.pipes)):
                assert isinstance(pipe, Connection)
                self.events.append((self.pipes[pipe], self._receive(pipe)))
        return self.events.popleft()

    def _receive(self, pipe: Connection) -> Event:
        try:
            message: Event | SweepError = pipe.recv()
        except (EOFError, OSError):
            process = self.processes[self.pipes.pop(pipe)]
            process.join()
            return Lost(f"its process ended (exit code {process.exitcode})")
        if isinstance(message, SweepError):
            raise message
        return message

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join()


def visible_gpus() -> list[str]:
    """This machine's GPUs, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = [name.strip() for name in named.split(",")] if named else []
    return known if known else [str(index) for index in range(torch.cuda.device_count())]


def _serve(config: SweepConfig, index: int, workers: int, gpus: Sequence[str], pipe: Connection) -> None:
    """One process: shards come in, events go out."""
    import torch

    if gpus:  # before CUDA starts, so that this worker's GPUs are all there are for it
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    with logged_to(Path(config.output) / f"log.{index}.txt"):
        try:
            worker = Worker(config)
        except SweepError as error:
            pipe.send(error)
            return
        pipe.send(worker.ready())
        with contextlib.suppress(EOFError, OSError):  # the sweep itself has ended
            while True:
                while worker.idle or pipe.poll():
                    worker.add(pipe.recv())
                for event in worker.events():
                    pipe.send(event)
