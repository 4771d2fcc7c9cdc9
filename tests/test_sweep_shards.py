"""Which questions go to which worker, and what happens to those of one that is lost. No model: events are scripted."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptinfer_eval.sweep.cells import Cell, Setting, in_order_of_stages, plan
from adaptinfer_eval.sweep.config import MethodEntry, SweepError, load_config
from adaptinfer_eval.sweep.dispatch import dispatch
from adaptinfer_eval.sweep.shape import model_shape
from adaptinfer_eval.sweep.shards import Shard, ShardQueue, in_batches, shards
from adaptinfer_eval.sweep.worker import Answered, Event, Failed, Finished, Lost, Pending, Ready

CELLS = [Cell("llava", Setting(MethodEntry(name=name)), "mme") for name in ("vanilla", "fastv", "tome", "random")]
HANG = Pending("hangs")
TIMEOUT = 25.0
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


@pytest.mark.parametrize(("layers", "tokens"), [(32, 576), (32, 256), (18, 256), (8, 36)])
def test_cells_come_in_the_order_of_their_first_stages_as_planned_for_the_model(layers: int, tokens: int) -> None:
    """VTW's depends on how many vision tokens there are."""
    shape = f"shape={{num_layers: {layers}, hidden_size: 64, intermediate_size: 96, vision_tokens: {tokens}}}"
    methods = "methods=vanilla,vtw,fastv,adaptinfer,pdrop,dart,fitprune"
    config = load_config("table1", [methods, f"budgets={tokens // 2},{tokens // 9}", shape, "pretrained=none/here"])
    planned = [one for one in plan(config) if one.audit]
    cells = in_order_of_stages([Cell("llava", one.setting, "mme") for one in planned], model_shape(config), 1)
    first = {one.setting.label: (one.audit.schedule + ":").split(":")[0] for one in planned if one.audit}
    found = [int(first[cell.setting.label].replace("none", "99")) for cell in cells]
    assert found == sorted(found)
    assert len(set(found)) > 2


def test_a_cell_that_cannot_run_has_a_place_all_the_same() -> None:
    shape = "shape={num_layers: 8, hidden_size: 64, intermediate_size: 96, vision_tokens: 36}"
    config = load_config("table1", ["methods=vtw,fastv", "budgets=7", shape, "pretrained=none/here"])
    vtw, fastv = (Cell("llava", one.setting, "mme") for one in plan(config))
    assert [one.runs for one in plan(config)] == [False, True]
    assert in_order_of_stages([vtw, fastv], model_shape(config), 1) == [fastv, vtw]


@pytest.mark.parametrize(("workers", "taken"), [(1, [4, 4]), (2, [4, 2, 1, 1]), (8, [1, 1, 1, 1, 1, 1, 1, 1])])
def test_the_last_shards_are_split_so_that_no_worker_idles(workers: int, taken: list[int]) -> None:
    queue = ShardQueue(shards({"mme": [[0], [1]]}, CELLS, NOTHING), workers)
    parts = [part for _ in taken if (part := queue.take(0, alone=False))]
    assert [len(part.cells) for part in parts] == taken
    assert queue.take(0, alone=False) is None
    asked = [(doc, cell.id) for part in parts for doc in part.docs for cell in part.cells]
    assert len(asked) == len(set(asked)) == 8


class Scripted:
    """A pool whose workers answer a cell per call, but for what `script` does to them; over `HANG` they hang."""

    def __init__(self, workers: int, script: Callable[[int, Cell], Event | None]) -> None:
        self.workers, self.script = workers, script
        self.hung: set[int] = set()
        self.ended: list[int] = []
        self.silence = 0.0
        self.events: deque[tuple[int, Event]] = deque((worker, Ready({})) for worker in range(workers))
        self.waiting: dict[int, deque[Shard]] = {worker: deque() for worker in range(workers)}
        self.answered: list[tuple[str, int]] = []
        self.restarted: list[int] = []

    def send(self, worker: int, shard: Shard) -> None:
        self.waiting[worker].append(shard)

    def receive(self, seconds: float) -> tuple[int, Event] | None:
        awake = [worker for worker, waiting in self.waiting.items() if waiting and worker not in self.hung]
        if not self.events and not awake:
            self.silence += seconds
            assert self.silence < 100 * TIMEOUT, "nobody does anything about it"
            return None  # as if so many seconds had passed
        if not self.events:
            worker = max(awake, key=lambda worker: len(self.waiting[worker]))
            shard = self.waiting[worker].popleft()
            for cell in shard.cells:
                event = self.script(worker, cell)
                if event is HANG:
                    self.hung.add(worker)
                    return self.receive(seconds)
                event = event or Answered(cell, {}, [{"doc": doc} for doc in shard.docs])
                self.events.append((worker, event))
                if isinstance(event, Lost):
                    self.waiting[worker].clear()
                    break
                if isinstance(event, Answered):
                    self.answered += [(cell.id, doc) for doc in shard.docs]
            else:
                self.events.append((worker, Finished(shard)))
        return self.events.popleft()

    def end(self, worker: int) -> None:
        self.ended.append(worker)
        self.hung.remove(worker)
        self.waiting[worker].clear()

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
    events = list(dispatch(pool, queue(9, workers), TIMEOUT))
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
    events = list(dispatch(pool, queue(6, 2), TIMEOUT))
    assert sorted(pool.answered) == everything(6)
    assert [event.reason for event in events if isinstance(event, Lost)] == ["killed"]
    assert not any(isinstance(event, Failed) for event in events)
    assert pool.restarted == [0]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("bad", [0, 1])  # 0: the very first that is asked
def test_a_cell_that_kills_workers_fails_and_the_rest_goes_on(bad: int, workers: int) -> None:
    pool = Scripted(workers, lambda _, cell: Lost("out of memory") if cell == CELLS[bad] else None)
    events = list(dispatch(pool, queue(5, workers), TIMEOUT))
    failures = [event for event in events if isinstance(event, Failed)]
    assert {failed.cell.id for failed in failures} == {CELLS[bad].id}
    assert "2 workers ended over it, the last: out of memory" in failures[0].reason
    assert workers > 1 or len(pool.restarted) == 2
    assert sorted(pool.answered) == [key for key in everything(5) if key[0] != CELLS[bad].id]


def test_a_failed_cell_is_not_asked_again() -> None:
    pool = Scripted(1, lambda _, cell: Failed(cell, "broken") if cell == CELLS[3] else None)
    events = list(dispatch(pool, queue(5, 1), TIMEOUT))
    assert sum(isinstance(event, Failed) for event in events) <= 2  # one more may be under way
    assert sorted(pool.answered) == [key for key in everything(5) if key[0] != CELLS[3].id]


def test_what_a_sick_worker_cannot_answer_others_do() -> None:
    pool = Scripted(4, lambda worker, cell: Failed(cell, "no memory") if worker == 2 else None)
    events = list(dispatch(pool, queue(9, 4), TIMEOUT))
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
    events = list(dispatch(pool, queue(4, 2), TIMEOUT))
    assert sorted(pool.answered) == everything(4)
    assert not any(isinstance(event, Failed) for event in events)


@pytest.mark.parametrize("workers", [1, 2])
def test_without_workers_it_ends(workers: int) -> None:
    pool = Scripted(workers, lambda *_: None)
    pool.events = deque((worker, Lost("no model")) for worker in range(workers))
    events = list(dispatch(pool, queue(5, workers), TIMEOUT))
    assert events == [Lost("no model")] * workers
    assert (pool.answered, pool.restarted) == ([], [])  # what cannot start would end again


@pytest.mark.parametrize("workers", [1, 2])
def test_where_workers_end_over_every_cell_each_is_tried_twice(workers: int) -> None:
    pool = Scripted(workers, lambda *_: Lost("gone"))
    events = list(dispatch(pool, queue(5, workers), TIMEOUT))
    # All but one worker are not started again: theirs may be a third try.
    assert sum(isinstance(event, Lost) for event in events) <= 2 * len(CELLS) + workers - 1
    assert {event.cell.id for event in events if isinstance(event, Failed)} == {cell.id for cell in CELLS}


def test_a_hung_workers_questions_go_to_another_and_it_is_started_again() -> None:
    hung: list[Cell] = []

    def script(worker: int, cell: Cell) -> Event | None:
        if worker == 0 and cell == CELLS[2] and not hung:
            hung.append(cell)
            return HANG
        return None

    pool = Scripted(2, script)
    events = list(dispatch(pool, queue(6, 2), TIMEOUT))
    assert sorted(pool.answered) == everything(6)
    assert [event.reason for event in events if isinstance(event, Lost)] == [
        "no answer for 25 s (worker_timeout), so it was ended"
    ]
    assert not any(isinstance(event, Failed) for event in events)
    assert (pool.ended, pool.restarted) == ([0], [0])


@pytest.mark.parametrize("workers", [1, 3])
def test_a_cell_that_every_worker_hangs_over_fails_and_the_rest_goes_on(workers: int) -> None:
    pool = Scripted(workers, lambda _, cell: HANG if cell == CELLS[1] else None)
    events = list(dispatch(pool, queue(5, workers), TIMEOUT))
    failures = [event for event in events if isinstance(event, Failed)]
    assert {failed.cell.id for failed in failures} == {CELLS[1].id}
    assert "workers ended over it, the last: no answer for 25 s" in failures[0].reason
    assert workers > 1 or len(pool.ended) == 2
    assert sorted(pool.answered) == [key for key in everything(5) if key[0] != CELLS[1].id]


def test_a_worker_that_takes_long_to_start_is_told_of_and_not_ended() -> None:
    """It may be downloading a checkpoint."""
    pool = Scripted(1, lambda *_: None)
    ready = pool.events.popleft()
    events = dispatch(pool, queue(2, 1), TIMEOUT)
    for _ in range(2):
        assert next(events) == Pending("a worker has been starting for 25 s")
    pool.events.append(ready)
    assert not any(isinstance(event, Lost | Failed) for event in events)
    assert pool.ended == []
    assert sorted(pool.answered) == everything(2)


def test_an_idle_worker_does_not_count_as_hung() -> None:
    """There is one question for two workers, and the first that is asked hangs over it."""
    asked: list[int] = []

    def script(worker: int, _: Cell) -> Event | None:
        asked.append(worker)
        return HANG if len(asked) == 1 else None

    pool = Scripted(2, script)
    list(dispatch(pool, ShardQueue(shards({"mme": [[0]]}, CELLS[:1], NOTHING), 2), TIMEOUT))
    assert pool.ended == asked[:1]
    assert asked[1] != asked[0]
    assert pool.answered == [(CELLS[0].id, 0)]


def test_nothing_waits_for_a_worker_that_does_not_start() -> None:
    """What the other one should not be asked again is its own again."""
    hung: list[Cell] = []

    def script(worker: int, cell: Cell) -> Event | None:
        if cell == CELLS[1] and not hung:
            hung.append(cell)
            return HANG
        return None

    pool = Scripted(2, script)
    pool.events.pop()  # worker 1 never tells that it is ready
    assert not any(isinstance(event, Failed) for event in dispatch(pool, queue(4, 2), TIMEOUT))
    assert sorted(pool.answered) == everything(4)
