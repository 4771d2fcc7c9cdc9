"""Keeps the workers of a pool busy; what a lost one had not finished goes to the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from adaptinfer_eval.sweep.pools import Pool
from adaptinfer_eval.sweep.shards import Shard, ShardQueue
from adaptinfer_eval.sweep.worker import Answered, Failed, Finished, Lost, Ready

DEATHS = 2
"""Workers that may end over a cell's batch before it is taken to be the cause."""


def dispatch(pool: Pool, queue: ShardQueue) -> Iterator[Ready | Answered | Failed | Lost]:
    """What the workers report until the queue is empty and everything is answered, or no worker is left.

    A cell that fails is dropped from the queue; the caller may drop others.
    """
    starting = set(range(pool.workers))
    at: dict[int, list[Shard]] = {}
    deaths: Counter[tuple[str, tuple[int, ...], str]] = Counter()
    while starting or at:
        worker, event = pool.receive()
        if isinstance(event, Ready):
            starting.remove(worker)
            at[worker] = []
        elif isinstance(event, Answered):
            at[worker][0] = at[worker][0].without([event.cell.id])
        elif isinstance(event, Finished):
            at[worker].pop(0)
        elif isinstance(event, Lost):
            starting.discard(worker)
            left = at.pop(worker, [])
            if left and left[0].cells:
                cell = left[0].cells[0]
                deaths[left[0].task, left[0].docs, cell.id] += 1
                if deaths[left[0].task, left[0].docs, cell.id] == DEATHS:
                    left[0] = left[0].without([cell.id])
                    queue.drop(cell.id)
                    yield Failed(cell, f"{DEATHS} workers ended over the same questions, the last: {event.reason}")
            queue.give_back(left)
        if isinstance(event, Failed):
            at[worker][0] = at[worker][0].without([event.cell.id])
            queue.drop(event.cell.id)
        if not isinstance(event, Finished):
            yield event
        _feed(pool, queue, at)
        if not starting and not queue.waiting and not any(at.values()):
            return


def _feed(pool: Pool, queue: ShardQueue, at: dict[int, list[Shard]]) -> None:
    """Every worker has a shard to answer, and one more to load meanwhile as long as there are plenty."""
    for ahead in (1, 2):
        for worker, shards in at.items():
            if len(shards) < ahead and (ahead == 1 or len(queue.waiting) > pool.workers):
                shard = queue.take()
                if shard is not None:
                    shards.append(shard)
                    pool.send(worker, shard)
