"""Which questions go to which worker, and what happens to those of one that is lost. No model: events are scripted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptinfer_eval.sweep.cells import Cell, Setting
from adaptinfer_eval.sweep.config import MethodEntry, SweepError, load_config
from adaptinfer_eval.sweep.dispatch import dispatch
from adaptinfer_eval.sweep.shards import Shard, ShardQueue, in_batches, shards
from adaptinfer_eval.sweep.worker import Answered, Event, Failed, Finished, Lost, Ready

CELLS = [Cell("llava", Setting(MethodEntry(name=name)), "mme") for name in ("vanilla", "fastv", "tome", "random")]
NOTHING: dict[str, set[int]] = {cell.id: set() for cell in CELLS}


def test_a_batch_goes_to_all_cells_that_lack_it_vanilla_first() -> None:
    found = shards({"mme": [[3, 1], [2]]}, CELLS, NOTHING)
    assert [(shard.docs, shard.cells) for shard in found] == [((3, 1), tuple(CELLS)), ((2,), tuple(CELLS))]


def test_what_is_done_is_not_asked_again_also_in_parts_of_batches() -> None:
    done = NOTHING | {CELLS[0].id: {1, 2, 3}, CELLS[1].id: {1}, CELLS[2].id: {2}}
    found = [(shard.docs, shard.cells) for shard in shards({"mme": [[3, 1], [2]]}, CELLS, done)]
    assert found == [((3,), (CELLS[1],)), ((3, 1), tuple(CELLS[2:])), ((2,), (CELLS[1], CELLS[3]))]


def test_a_checkpoint_without_a_tokenizer_ends_the_sweep(tmp_path: Path) -> None:
    config = load_config("mini").model_copy(update={"pretrained": str(tmp_path)})
    with pytest.raises(SweepError, match=r"tokenizer of .* could not be loaded"):
        in_batches(config, {}, {})


@pytest.mark.parametrize(("workers", "taken"), [(1, [4, 4]), (2, [4, 2, 1, 1]), (8, [1, 1, 1, 1, 1, 1, 1, 1])])
def test_the_last_shards_are_split_so_that_no_worker_idles(workers: int, taken: list[int]) -> None:
    queue = ShardQueue(shards({"mme": [[0], [1]]}, CELLS, NOTHING), workers)
    parts = [part for _ in taken if (part := queue.take(0, alone=False))]
    assert [len(part.cells) for part in parts] == taken
    assert queue.take(0, alone=False) is None
    asked = [(doc, cell.id) for part in parts for doc in part.docs for cell in part.cells]
    assert len(asked) == len(set(asked)) == 8


class Scripted:
    """A pool whose workers answer a cell per call, but for what `script` does to them."""

    def __init__(self, workers: int, script: Callable[[int, Cell], Event | None]) -> None:
        self.workers, self.script = workers, script
        self.events: deque[tuple[int, Event]] = deque((worker, Ready({})) for worker in range(workers))
        self.waiting: dict[int, deque[Shard]] = {worker: deque() for worker in range(workers)}
        self.answered: list[tuple[str, int]] = []
        self.restarted: list[int] = []

    def send(self, worker: int, shard: Shard) -> None:
        self.waiting[worker].append(shard)

    def receive(self) -> tuple[int, Event]:
        if not self.events:
            worker = max(self.waiting, key=lambda worker: len(self.waiting[worker]))
            shard = self.waiting[worker].popleft()
            for cell in shard.cells:
                event = self.script(worker, cell) or Answered(cell, {}, [{"doc": doc} for doc in shard.docs])
                self.events.append((worker, event))
                if isinstance(event, Lost):
                    self.waiting[worker].clear()
                    break
                if isinstance(event, Answered):
                    self.answered += [(cell.id, doc) for doc in shard.docs]
            else:
                self.events.append((worker, Finished(shard)))
        return self.events.popleft()

    def restart(self, worker: int) -> None:
        self.restarted.append(worker)
        self.events.append((worker, Ready({})))

    def close(self) -> None:
        pass


def everything(docs: int) -> list[tuple[str, int]]:
    return sorted((cell.id, doc) for cell in CELLS for doc in range(docs))


def queue(docs: int, workers: int) -> ShardQueue:
    return ShardQueue(shards({"mme": [[doc] for doc in range(docs)]}, CELLS, NOTHING), workers)


@pytest.mark.parametrize("workers", [1, 3])
def test_everything_is_answered_once(workers: int) -> None:
    pool = Scripted(workers, lambda *_: None)
    events = list(dispatch(pool, queue(9, workers)))
    assert sorted(pool.answered) == everything(9)
    assert sum(isinstance(event, Answered) for event in events) == len(pool.answered)


def test_a_lost_workers_questions_go_to_the_others_and_nothing_is_answered_twice() -> None:
    lost: list[Cell] = []

    def script(worker: int, cell: Cell) -> Event | None:
        if worker == 0 and cell == CELLS[2] and not lost:
            lost.append(cell)
            return Lost("killed")
        return None

    pool = Scripted(2, script)
    events = list(dispatch(pool, queue(6, 2)))
    assert sorted(pool.answered) == everything(6)
    assert [event.reason for event in events if isinstance(event, Lost)] == ["killed"]
    assert not any(isinstance(event, Failed) for event in events)
    assert pool.restarted == [0]


def test_a_cell_that_kills_workers_fails_and_the_rest_goes_on() -> None:
    pool = Scripted(3, lambda _, cell: Lost("out of memory") if cell == CELLS[1] else None)
    events = list(dispatch(pool, queue(5, 3)))
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.cell == CELLS[1]
    assert "out of memory" in failed.reason
    assert sorted(pool.answered) == [key for key in everything(5) if key[0] != CELLS[1].id]


def test_a_failed_cell_is_not_asked_again() -> None:
    pool = Scripted(1, lambda _, cell: Failed(cell, "broken") if cell == CELLS[3] else None)
    events = list(dispatch(pool, queue(5, 1)))
    assert sum(isinstance(event, Failed) for event in events) <= 2  # one more may be under way
    assert sorted(pool.answered) == [key for key in everything(5) if key[0] != CELLS[3].id]


def test_what_a_sick_worker_cannot_answer_others_do() -> None:
    pool = Scripted(4, lambda worker, cell: Failed(cell, "no memory") if worker == 2 else None)
    events = list(dispatch(pool, queue(9, 4)))
    assert sorted(pool.answered) == everything(9)
    assert not any(isinstance(event, Failed) for event in events)


def test_what_only_the_last_worker_is_left_for_is_its_own_again() -> None:
    """Worker 0 fails once; then the other one ends for good."""
    failures: list[Cell] = []

    def script(worker: int, cell: Cell) -> Event | None:
        if worker == 1:
            return Lost("gone")
        if not failures:
            failures.append(cell)
            return Failed(cell, "once")
        return None

    pool = Scripted(2, script)
    events = list(dispatch(pool, queue(4, 2)))
    assert sorted(pool.answered) == everything(4)
    assert not any(isinstance(event, Failed) for event in events)


def test_without_workers_it_ends() -> None:
    pool = Scripted(2, lambda *_: Lost("gone"))
    events = list(dispatch(pool, queue(5, 2)))
    assert sum(isinstance(event, Lost) for event in events) == 2
    assert (pool.answered, pool.restarted) == ([], [])  # what never answered anything would end again
