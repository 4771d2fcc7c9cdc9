"""Workers as actors of a Ray cluster, an existing one or one that is started here; each holds a model."""

from __future__ import annotations

import logging
import queue
from collections.abc import Generator
from typing import Any

import ray as typed_ray
from ray.exceptions import RayError

from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.identity import Sources
from adaptinfer_eval.sweep.shards import Shard
from adaptinfer_eval.sweep.worker import Event, Lost, Pending, Worker

ray: Any = typed_ray  # its own types know neither concurrency groups nor streams

SECONDS_OF_SILENCE = 60


class RayActors:
    """One actor per `gpus_per_worker` GPUs of the cluster; without GPUs, `workers` actors of one CPU each.

    Ray gives each actor one core and lets it compute with one thread, unless OMP_NUM_THREADS is set.

    Every node needs this package, the checkpoint and the data sets; results are written by this process alone.
    """

    def __init__(self, config: SweepConfig, sources: Sources, most: int) -> None:
        self.started_here = not ray.is_initialized()
        if self.started_here:
            try:
                ray.init(
                    address=config.ray_address,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.WARNING,
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = config.ray_address or "this machine's"
                raise SweepError(f"ray_address: no Ray cluster answers at {where}: {error}") from error
        each = config.gpus_per_worker
        gpus = [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
        room = sum(count // each for count in gpus)  # a worker's GPUs are on one node
        if any(gpus) and (config.workers or 1) > room:
            raise SweepError(f"{config.workers or 1} workers with {each} GPUs each: the cluster has room for {room}")
        self.config, self.sources = config, sources
        self.silence = 0.0
        self.workers = min(most, config.workers or max(1, room))
        self.actor_class = ray.remote(concurrency_groups={"inbox": 1})(Actor).options(
            num_cpus=1, num_gpus=each if any(gpus) else 0
        )
        self.actors: dict[int, Any] = {}
        self.streams: dict[int, Any] = {}
        for index in range(self.workers):
            self.restart(index)

    def restart(self, worker: int) -> None:
        self.actors[worker] = self.actor_class.remote(self.config, self.sources)
        self.streams[worker] = self.actors[worker].work.options(num_returns="streaming").remote()

    def send(self, worker: int, shard: Shard) -> None:
        self.actors[worker].add.options(concurrency_group="inbox").remote(shard)

    def receive(self, seconds: float) -> tuple[int, Event] | None:
        found, _ = ray.wait(list(self.streams.values()), num_returns=1, timeout=seconds)
        self.silence = 0.0 if found else self.silence + seconds
        if not found:
            if self.silence < SECONDS_OF_SILENCE:
                return None
            self.silence = 0.0
            free = ", ".join(f"{ray.available_resources().get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
            return 0, Pending(f"no word from the Ray cluster for {SECONDS_OF_SILENCE} s; free are {free}")
        worker = next(index for index, stream in self.streams.items() if stream is found[0])
        try:
            event: Event = ray.get(next(found[0]))
        except RayError as error:
            event = Lost(f"its actor ended: {str(error).strip().splitlines()[0]}")
        if isinstance(event, Lost):
            del self.streams[worker]
        return worker, event

    def end(self, worker: int) -> None:
        del self.streams[worker]
        ray.kill(self.actors[worker])

    def close(self) -> None:
        for actor in self.actors.values():
            ray.kill(actor)
        if self.started_here:
            ray.shutdown()


class Actor:
    """A worker whose shards come in while it answers."""

    def __init__(self, config: SweepConfig, sources: Sources) -> None:
        self.config, self.sources = config, sources
        self.inbox: queue.Queue[Shard] = queue.Queue()

    def add(self, shard: Shard) -> None:
        self.inbox.put(shard)

    def work(self) -> Generator[Event, None, None]:
        """All events, as they are made; ends with the actor."""
        try:
            worker = Worker(self.config, self.sources)
        except SweepError as error:
            yield Lost(str(error))
            return
        yield worker.ready()
        while True:
            while worker.idle or not self.inbox.empty():
                worker.add(self.inbox.get())
            yield from worker.events()
