"""Keeps the workers of a pool busy; what a lost one had not finished goes to the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from adaptinfer_eval.sweep.pools import Pool
from adaptinfer_eval.sweep.shards import Shard, ShardQueue
from adaptinfer_eval.sweep.worker import Answered, Failed, Finished, Lost, Ready

DEATHS = 2
"""Workers that may end over a cell before it is taken to be the cause."""


def dispatch(pool: Pool, queue: ShardQueue) -> Iterator[Ready | Answered | Failed | Lost]:
    """What the workers report until everything is answered, or no worker is left.

    A cell that fails is dropped from the queue; the caller may drop others. A worker that ends is started again if it
    had answered something; one that had not would end again.
    """
    starting = set(range(pool.workers))
    at: dict[int, list[Shard]] = {}
    useful: set[int] = set()
    deaths: Counter[str] = Counter()
    while queue.waiting or any(at.values()):
        if not starting and not at:
            return
        worker, event = pool.receive()
        if isinstance(event, Ready):
            starting.remove(worker)
            at[worker] = []
        elif isinstance(event, Answered):
            useful.add(worker)
            at[worker][0] = at[worker][0].without([event.cell.id])
        elif isinstance(event, Failed):
            at[worker][0] = at[worker][0].without([event.cell.id])
            queue.drop(event.cell.id)
        elif isinstance(event, Finished):
            at[worker].pop(0)
        elif isinstance(event, Lost):
            starting.discard(worker)
            left = at.pop(worker, [])
            queue.give_back(left)
            if left and left[0].cells:
                cell = left[0].cells[0]
                deaths[cell.id] += 1
                if deaths[cell.id] == DEATHS:
                    yield Failed(cell, f"{DEATHS} workers ended over it, the last: {event.reason}")
            for cell_id, count in deaths.items():
                if count >= DEATHS:
                    queue.drop(cell_id)
            if worker in useful:
                useful.remove(worker)
                starting.add(worker)
                pool.restart(worker)
        if not isinstance(event, Finished):
            yield event
        _feed(pool, queue, at)


def _feed(pool: Pool, queue: ShardQueue, at: dict[int, list[Shard]]) -> None:
    """Every worker has a shard to answer, and one more to load meanwhile as long as there are plenty."""
    for ahead in (1, 2):
        for worker, shards in at.items():
            if len(shards) < ahead and (ahead == 1 or len(queue.waiting) > pool.workers):
                shard = queue.take()
                if shard is not None:
                    shards.append(shard)
                    pool.send(worker, shard)
