"""Workers as actors of a Ray cluster, an existing one or one that is started here; each holds a model."""

from __future__ import annotations

import logging
import queue
from collections.abc import Generator
from typing import Any

import ray as typed_ray
from ray.exceptions import RayActorError

from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.shards import Shard
from adaptinfer_eval.sweep.worker import Event, Lost, Worker

ray: Any = typed_ray  # its own types know neither concurrency groups nor streams


class RayActors:
    """One actor per `gpus_per_worker` GPUs of the cluster; without GPUs, `workers` actors of one CPU each.

    Every node needs this package, the checkpoint and the data sets; results are written by this process alone.
    """

    def __init__(self, config: SweepConfig, most: int) -> None:
        self.started_here = not ray.is_initialized()
        if self.started_here:
            ray.init(
                address=config.ray_address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        gpus, each = int(ray.cluster_resources().get("GPU", 0)), config.gpus_per_worker
        wanted = min(most, config.workers or max(1, gpus // each))
        if gpus and wanted * each > gpus:
            raise SweepError(f"{wanted} workers with {each} GPUs each need {wanted * each}, the cluster has {gpus}")
        self.config, self.workers = config, wanted
        self.actor_class = ray.remote(concurrency_groups={"inbox": 1})(Actor).options(
            num_cpus=1, num_gpus=each if gpus else 0
        )
        self.actors: dict[int, Any] = {}
        self.streams: dict[int, Any] = {}
        for index in range(wanted):
            self.restart(index)

    def restart(self, worker: int) -> None:
        self.actors[worker] = self.actor_class.remote(self.config)
        self.streams[worker] = self.actors[worker].work.options(num_returns="streaming").remote()

    def send(self, worker: int, shard: Shard) -> None:
        self.actors[worker].add.options(concurrency_group="inbox").remote(shard)

    def receive(self) -> tuple[int, Event]:
        (ready,), _ = ray.wait(list(self.streams.values()), num_returns=1)
        worker = next(index for index, stream in self.streams.items() if stream is ready)
        try:
            event: Event = ray.get(next(ready))
        except RayActorError as error:
            event = Lost(f"its actor ended: {str(error).strip().splitlines()[0]}")
        if isinstance(event, Lost):
            del self.streams[worker]
        return worker, event

    def close(self) -> None:
        for actor in self.actors.values():
            ray.kill(actor)
        if self.started_here:
            ray.shutdown()


class Actor:
    """A worker whose shards come in while it answers."""

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self.inbox: queue.Queue[Shard] = queue.Queue()

    def add(self, shard: Shard) -> None:
        self.inbox.put(shard)

    def work(self) -> Generator[Event, None, None]:
        """All events, as they are made; ends with the actor."""
        try:
            worker = Worker(self.config)
        except SweepError as error:
            yield Lost(str(error))
            return
        yield worker.ready()
        while True:
            while worker.idle or not self.inbox.empty():
                worker.add(self.inbox.get())
            yield from worker.events()
