"""Keeps the workers of a pool busy; what one could not answer goes to another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from adaptinfer_eval.sweep.pools import Pool
from adaptinfer_eval.sweep.shards import Shard, ShardQueue
from adaptinfer_eval.sweep.worker import Answered, Failed, Finished, Lost, Pending, Ready

TRIES = 2
"""Workers that may fail, or end, over a cell's batch before it is the cell that is taken to be the cause."""


def dispatch(pool: Pool, queue: ShardQueue) -> Iterator[Ready | Answered | Failed | Lost | Pending]:
    """What the workers report until everything is answered, or no worker is left.

    A cell that fails is dropped from the queue; the caller may drop others. A worker that ends is started again if it
    had answered something; one that had not would end again.
    """
    starting = set(range(pool.workers))
    at: dict[int, list[Shard]] = {}
    useful: set[int] = set()
    troubles: Counter[tuple[str, tuple[int, ...]]] = Counter()

    def failed(shard: Shard, worker: int, reason: str, again: bool) -> Iterator[Failed]:
        """The first cell of `shard` could not be answered by `worker`; with `again`, another may do better."""
        cell, docs = shard.cells[0], shard.docs
        troubles[cell.id, docs] += 1
        if troubles[cell.id, docs] < TRIES and again:
            queue.give_back([replace(shard, cells=(cell,), avoid=worker)])
        else:
            queue.drop(cell.id)
            yield Failed(cell, reason)

    while queue.waiting or any(at.values()):
        if not starting and not at:
            return
        worker, event = pool.receive()
        if isinstance(event, Ready):
            starting.remove(worker)
            at[worker] = []
            yield event
        elif isinstance(event, Answered):
            useful.add(worker)
            at[worker][0] = at[worker][0].without([event.cell.id])
            yield event
        elif isinstance(event, Failed):
            current = at[worker][0]
            at[worker][0] = current.without([event.cell.id])
            yield from failed(replace(current, cells=(event.cell,)), worker, event.reason, len(at) + len(starting) > 1)
        elif isinstance(event, Finished):
            at[worker].pop(0)
        elif isinstance(event, Lost):
            starting.discard(worker)
            left = at.pop(worker, [])
            yield event
            if worker in useful:
                useful.remove(worker)
                starting.add(worker)
                pool.restart(worker)
            if left and left[0].cells and (at or starting):
                current, left[0] = left[0], left[0].without([left[0].cells[0].id])
                yield from failed(current, worker, f"{TRIES} workers ended over it, the last: {event.reason}", True)
            queue.give_back(left)
        else:
            yield event
        _feed(pool, queue, at, starting)


def _feed(pool: Pool, queue: ShardQueue, at: dict[int, list[Shard]], starting: set[int]) -> None:
    """Every worker has a shard to answer, and one more to load meanwhile as long as there are plenty."""
    alone = len(at) + len(starting) == 1
    for ahead in (1, 2):
        for worker, shards in at.items():
            if len(shards) < ahead and (ahead == 1 or len(queue.waiting) > pool.workers):
                shard = queue.take(worker, alone)
                if shard is not None:
                    shards.append(shard)
                    pool.send(worker, shard)
