"""Where a sweep's workers are: in this process, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.identity import Sources
from adaptinfer_eval.sweep.shards import Shard
from adaptinfer_eval.sweep.worker import Event


class Pool(Protocol):
    """Some workers, numbered from 0. The first event of each is `Ready`; after `Lost` it is gone until `restart`."""

    workers: int

    def send(self, worker: int, shard: Shard) -> None:
        """Hand a shard to a worker, which may still have others to answer first."""

    def receive(self, seconds: float) -> tuple[int, Event] | None:
        """The next event of any worker that is starting or has shards; None where there is none for so long."""

    def end(self, worker: int) -> None:
        """End a worker that does not answer any more; it is lost."""

    def restart(self, worker: int) -> None:
        """Start a worker that was lost again."""

    def close(self) -> None:
        """End all workers, whatever they are at."""


def open_pool(config: SweepConfig, sources: Sources, shards: int, show: Callable[[str], None]) -> Pool:
    """The pool that a configuration asks for, with no more workers than can be of use. Imports torch.

    `sources`: what its workers have to work with; `show` is told of what nothing can be done about.
    """
    from adaptinfer_eval.sweep.pools.inline import Inline
    from adaptinfer_eval.sweep.pools.processes import Processes, visible_gpus

    if config.pool == "ray":
        try:
            from adaptinfer_eval.sweep.pools.ray import RayActors
        except ModuleNotFoundError as error:
            raise SweepError("pool=ray needs Ray: pip install 'adaptinfer-eval[ray]'") from error
        return RayActors(config, sources, shards)
    gpus = visible_gpus()
    workers = min(shards, config.workers or max(1, len(gpus) // config.gpus_per_worker))
    if config.pool == "inline" or (config.pool is None and workers == 1):
        return Inline(config, sources, show)
    return Processes(config, sources, workers, gpus)
