"""How many workers a sweep gets, and which GPUs are theirs. No GPU is needed: their names are in the environment."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest
from lmms_tiny import save_tiny_llava
from sweeps import run, same_results, small_sweep

from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.pools import open_pool
from adaptinfer_eval.sweep.pools.inline import Inline
from adaptinfer_eval.sweep.pools.processes import Processes, visible_gpus


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
    assert visible_gpus() == ["4", "GPU-7", "6", "7"]
    config = small_sweep(checkpoint, tmp_path, "workers=null", f"gpus_per_worker={each}")
    pool = open_pool(config, shards)
    try:
        assert isinstance(pool, Processes)
        assert pool.gpus == expected
    finally:
        pool.close()
    with pytest.raises(SweepError, match="5 workers with 1 GPUs each need 5, there are 4"):
        open_pool(small_sweep(checkpoint, tmp_path, "workers=5"), shards=10)


def test_without_gpus_there_is_one_worker_in_this_process(checkpoint: Path, tmp_path: Path) -> None:
    pool = open_pool(small_sweep(checkpoint, tmp_path, "workers=null"), shards=10)
    assert isinstance(pool, Inline)


def test_a_model_spread_over_devices_answers_alike(checkpoint: Path, tmp_path: Path) -> None:
    """Here over the one device there is: what is tested is that the sweep runs with device_map."""
    spread = small_sweep(checkpoint, tmp_path / "spread", "gpus_per_worker=2", "tasks=mini_gqa")
    alone = small_sweep(checkpoint, tmp_path / "alone", "tasks=mini_gqa")
    for sweep in (spread, alone):
        assert run(sweep)[1] == []
    assert same_results(spread, alone)


def test_workers_end_with_their_sweep(checkpoint: Path, tmp_path: Path) -> None:
    pool = open_pool(small_sweep(checkpoint, tmp_path, "workers=2"), shards=10)
    assert len(multiprocessing.active_children()) == 2
    pool.close()
    time.sleep(0.1)
    assert multiprocessing.active_children() == []
