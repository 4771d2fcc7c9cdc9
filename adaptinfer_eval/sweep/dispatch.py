"""Keeps the workers of a pool busy; what one could not answer goes to another."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

from adaptinfer_eval.sweep.pools import Pool
from adaptinfer_eval.sweep.shards import Shard, ShardQueue
from adaptinfer_eval.sweep.worker import Answered, Failed, Finished, Lost, Pending, Ready

TRIES = 2
"""Workers that may fail, or end, over a cell's batch before it is the cell that is taken to be the cause."""
LONGEST_WAIT = 10.0
"""Seconds."""


def dispatch(pool: Pool, queue: ShardQueue, timeout: float) -> Iterator[Ready | Answered | Failed | Lost | Pending]:
    """What the workers report until everything is answered, or no worker is left.

    A cell that fails is dropped from the queue; the caller may drop others. A worker that ends is started again if it
    had answered something, or ended over a cell and no other is there; one that cannot start would end again. One that
    has something to answer and says nothing for `timeout` seconds is ended; where it is still starting, which a
    download may make long, that is only told.
    """
    starting = set(range(pool.workers))
    late: set[int] = set()  # of those, the ones that nothing should wait for
    at: dict[int, list[Shard]] = {}
    useful: set[int] = set()
    silent: defaultdict[int, float] = defaultdict(float)  # seconds
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

    def lost(event: Lost, worker: int) -> Iterator[Lost | Failed]:
        starting.discard(worker)
        late.discard(worker)
        left = at.pop(worker, [])
        yield event
        over_a_cell = bool(left and left[0].cells)
        if worker in useful or (over_a_cell and not at and not starting - late):
            useful.discard(worker)
            starting.add(worker)
            pool.restart(worker)
        if not over_a_cell:
            queue.give_back(left)
            return
        current = left[0]
        queue.give_back([current.without([current.cells[0].id]), *left[1:]])
        yield from failed(current, worker, f"{TRIES} workers ended over it, the last: {event.reason}", True)

    while queue.waiting or any(at.values()):
        if not starting and not at:
            return
        busy = starting.union(worker for worker, shards in at.items() if shards)
        # In short waits: one that took longer than it was asked to (the machine slept) counts as what was asked for.
        seconds = min(LONGEST_WAIT, max(0.0, timeout - max((silent[worker] for worker in busy), default=0.0)))
        began = time.monotonic()
        found = pool.receive(seconds)
        waited = seconds if found is None else min(seconds, time.monotonic() - began)
        for worker in busy:
            silent[worker] += waited
        if found is None:
            for worker in [worker for worker in busy if silent[worker] >= timeout]:
                silent[worker] = 0.0
                if worker in starting:
                    late.add(worker)
                    yield Pending(f"a worker has been starting for {timeout:g} s")
                else:
                    pool.end(worker)
                    yield from lost(Lost(f"no answer for {timeout:g} s (worker_timeout), so it was ended"), worker)
            _feed(pool, queue, at, starting - late)
            continue
        worker, event = found
        if not isinstance(event, Pending):  # which is of no worker
            silent[worker] = 0.0
        if isinstance(event, Ready):
            starting.remove(worker)
            late.discard(worker)
            at[worker] = []
            yield event
        elif isinstance(event, Answered):
            useful.add(worker)
            at[worker][0] = at[worker][0].without([event.cell.id])
            yield event
        elif isinstance(event, Failed):
            current = at[worker][0]
            at[worker][0] = current.without([event.cell.id])
            yield from failed(
                replace(current, cells=(event.cell,)), worker, event.reason, len(at) + len(starting - late) > 1
            )
        elif isinstance(event, Finished):
            at[worker].pop(0)
        elif isinstance(event, Lost):
            yield from lost(event, worker)
        else:
            yield event
        _feed(pool, queue, at, starting - late)


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
