"""How many workers a sweep gets, and which GPUs are theirs. No GPU is needed: their names are in the environment."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from lmms_tiny import save_tiny_llava
from sweeps import run, same_results, small_sweep

from adaptinfer_eval.sweep.cells import Cell, settings
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.dispatch import dispatch
from adaptinfer_eval.sweep.identity import Sources
from adaptinfer_eval.sweep.pools import open_pool
from adaptinfer_eval.sweep.pools.processes import Processes, visible_gpus
from adaptinfer_eval.sweep.shards import Shard, ShardQueue
from adaptinfer_eval.sweep.tasks import load_tasks, questions
from adaptinfer_eval.sweep.threads import cores, threads_of_each
from adaptinfer_eval.sweep.worker import Answered, Lost, Worker

NOTHING = Sources("", "", {}, {}, {})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"), layers=8)


@pytest.mark.parametrize(
    ("each", "shards", "expected"),
    [
        (1, 100, [["4"], ["GPU-7"], ["6"], ["7"]]),
        (2, 100, [["4", "GPU-7"], ["6", "7"]]),
        (1, 2, [["4"], ["GPU-7"]]),
    ],
)
def test_workers_share_the_visible_gpus_evenly(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, each: int, shards: int, expected: list[list[str]]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, GPU-7,6,7")
    assert visible_gpus() == []  # named, but not there
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert visible_gpus() == ["4", "GPU-7", "6", "7"]
    config = small_sweep(checkpoint, tmp_path, "workers=null", f"gpus_per_worker={each}")
    pool = open_pool(config, NOTHING, shards, print)
    try:
        assert isinstance(pool, Processes)
        assert pool.gpus == expected
    finally:
        pool.close()
    with pytest.raises(SweepError, match="5 workers with 1 GPUs each need 5, there are 4"):
        open_pool(small_sweep(checkpoint, tmp_path, "workers=5"), NOTHING, 10, print)


def test_without_gpus_there_is_one_worker_in_this_process(checkpoint: Path, tmp_path: Path) -> None:
    sweep = small_sweep(checkpoint, tmp_path, "workers=null", "tasks=mini_gqa")
    assert run(sweep)[1] == []
    assert not list(tmp_path.glob("log.[0-9].txt"))  # which processes have


def test_a_model_spread_over_devices_answers_alike(checkpoint: Path, tmp_path: Path) -> None:
    """Here over the one device there is: what is tested is that the sweep runs with device_map."""
    spread = small_sweep(checkpoint, tmp_path / "spread", "gpus_per_worker=2", "tasks=mini_gqa")
    alone = small_sweep(checkpoint, tmp_path / "alone", "tasks=mini_gqa")
    for sweep in (spread, alone):
        assert run(sweep)[1] == []
    assert same_results(spread, alone)


def test_workers_that_have_something_else_than_the_sweep_do_not_start(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    config = small_sweep(checkpoint, tmp_path)
    _, tasks = load_tasks(config)
    asked = {name: questions(name, task, config.limit) for name, task in tasks.items()}
    sources = Sources.read(config, tasks, asked)
    Worker(config, sources)
    others: dict[str, Any] = {"checkpoint": "another", "versions": {}, "engine": "older", "data": {}, "code": {}}
    for name, value in others.items():
        with pytest.raises(SweepError, match=f"a worker would measure something else .{name} was"):
            Worker(config, replace(sources, **{name: value}))
    pool = open_pool(small_sweep(checkpoint, tmp_path, "workers=2"), replace(sources, engine="older"), 10, print)
    try:
        while (found := pool.receive(60)) is None:
            pass
        index, event = found
        assert isinstance(event, Lost)
        assert "engine was 'older'" in event.reason
    finally:
        pool.close()
    log = (tmp_path / f"log.{index}.txt").read_text(encoding="utf-8")
    assert f"worker {index} of 2: {threads_of_each(2, cores())} threads on {cores()} cores" in log


def test_a_worker_killed_while_it_starts_is_passed_over(checkpoint: Path, tmp_path: Path) -> None:
    sweep = small_sweep(checkpoint, tmp_path, "workers=2")
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run, sweep)
        while len(multiprocessing.active_children()) < 2:
            time.sleep(0.01)
        multiprocessing.active_children()[0].kill()
        records, failed, shown = running.result()
    assert failed == []
    assert {record["status"] for record in records.values()} == {"done"}
    assert "a worker is gone: its process ended with code -9" in shown


def test_a_worker_that_hangs_is_ended_and_its_questions_are_answered(checkpoint: Path, tmp_path: Path) -> None:
    """Both are stopped by a signal: they are there, and say nothing any more. One has answered, so it is replaced.

    The test has to wait for the time-out, so that is as short as is safe: ten seconds are many for one answer here,
    also on a busy machine, and loading the model does not count.
    """
    sweep = small_sweep(checkpoint, tmp_path, "workers=2", "limit=40", "worker_timeout=10")
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run, sweep)
        while not any(len(path.read_bytes().splitlines()) > 1 for path in tmp_path.glob("journal/*.jsonl")):
            time.sleep(0.01)
        hung = [process.pid for process in multiprocessing.active_children() if process.pid]
        for pid in hung:
            os.kill(pid, signal.SIGSTOP)
        records, failed, shown = running.result()
    assert failed == []
    assert {record["status"] for record in records.values()} == {"done"}
    assert "a worker is gone: no answer for 10 s (worker_timeout), so it was ended" in shown
    assert len(hung) == 2
    assert not any(map(psutil.pid_exists, hung))


def test_of_a_worker_in_this_process_it_is_only_said(checkpoint: Path, tmp_path: Path) -> None:
    said: list[str] = []
    config = small_sweep(checkpoint, tmp_path, "tasks=mini_gqa", "worker_timeout=0.001")
    _, tasks = load_tasks(config)
    asked = {name: questions(name, task, config.limit) for name, task in tasks.items()}
    cells = [Cell("llava", setting, "mini_gqa") for setting in settings(config)]
    pool = open_pool(config, Sources.read(config, tasks, asked), 1, said.append)
    queue = ShardQueue([Shard("mini_gqa", tuple(asked["mini_gqa"]), tuple(cells))], 1)
    answered = [event.cell for event in dispatch(pool, queue, config.worker_timeout) if isinstance(event, Answered)]
    assert answered == cells
    assert all("no answer for 0.001 s" in text and "pool=processes" in text for text in said)
    assert said


def test_nothing_waits_for_a_process_that_cannot_be_killed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver may hold it: here they are stopped, and kill does nothing. One has also let go of its pipe."""
    monkeypatch.setattr("adaptinfer_eval.sweep.pools.processes.SECONDS_TO_END", 0.1)
    pool = open_pool(small_sweep(checkpoint, tmp_path, "workers=2"), NOTHING, 10, print)
    assert isinstance(pool, Processes)
    held = list(pool.processes.values())
    kills = [process.kill for process in held]
    for process in held:
        os.kill(process.pid or 0, signal.SIGSTOP)
        monkeypatch.setattr(process, "kill", lambda: None)
    pool.pipes[0], theirs = multiprocessing.Pipe()
    theirs.close()
    found: list[Any] = []

    def receive_and_close() -> None:
        found.append(pool.receive(60))
        pool.close()
        found.append("closed")

    waiting = threading.Thread(target=receive_and_close, daemon=True)
    waiting.start()
    waiting.join(30)
    in_time = list(found)
    still_there = [process.is_alive() for process in held]
    for process, kill in zip(held, kills, strict=True):
        kill()
        process.join(30)
    assert in_time == [(0, Lost(f"its process does not end, see {tmp_path / 'log.0.txt'}")), "closed"]
    assert still_there == [True, True]


def test_workers_end_with_their_sweep(checkpoint: Path, tmp_path: Path) -> None:
    pool = open_pool(small_sweep(checkpoint, tmp_path, "workers=2"), NOTHING, 10, print)
    assert len(multiprocessing.active_children()) == 2
    pool.close()
    assert multiprocessing.active_children() == []
