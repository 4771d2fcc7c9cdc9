"""Workers on a Ray cluster: a local one with two CPU actors, one of them killed while it answers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from lmms_tiny import save_tiny_llava
from sweeps import run, same_results, small_sweep

from adaptinfer_eval.sweep.config import SweepError

ray: Any = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # actors would wait for whatever else runs here
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"), layers=8)


def actors() -> list[int]:
    """Processes of this machine's actors."""
    found = psutil.process_iter(["cmdline"])
    return [process.pid for process in found if "ray::Actor" in str(process.info["cmdline"])]


@pytest.mark.usefixtures("cluster")
def test_a_killed_actor_costs_no_cell(checkpoint: Path, tmp_path: Path) -> None:
    given = ("limit=40", "batch_size=4")
    spread = small_sweep(checkpoint, tmp_path / "ray", *given, "pool=ray", "workers=2")
    journals = Path(spread.output, "journal")

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run, spread)
        while not any(len(path.read_bytes().splitlines()) > 1 for path in journals.glob("*.jsonl")):
            time.sleep(0.02)
            assert not running.done(), running.result()
        os.kill(actors()[0], signal.SIGKILL)
        records, failed, _ = running.result()
    assert failed == []
    assert {record["status"] for record in records.values()} == {"done"}
    for path in journals.glob("*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        docs = [answer["doc"] for line in lines for answer in json.loads(line)["answers"]]
        assert sorted(docs) == list(range(40))  # each once
    alone = small_sweep(checkpoint, tmp_path / "alone", *given)
    run(alone)
    assert same_results(spread, alone)


@pytest.mark.usefixtures("cluster")
def test_an_actor_that_hangs_costs_no_cell(checkpoint: Path, tmp_path: Path) -> None:
    """One of two is stopped by a signal, and so it stays. Ten seconds are many for one answer here."""
    sweep = small_sweep(checkpoint, tmp_path, "pool=ray", "workers=2", "limit=40", "worker_timeout=10")
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run, sweep)
        while not any(len(path.read_bytes().splitlines()) > 1 for path in tmp_path.glob("journal/*.jsonl")):
            time.sleep(0.02)
            assert not running.done(), running.result()
        hung = actors()[0]
        os.kill(hung, signal.SIGSTOP)
        records, failed, shown = running.result()
    with contextlib.suppress(ProcessLookupError):
        os.kill(hung, signal.SIGKILL)
    assert failed == []
    assert {record["status"] for record in records.values()} == {"done"}
    assert "for 10 s" in shown  # has given no answer, or has been starting


@pytest.mark.usefixtures("cluster")
def test_a_model_that_no_actor_can_load_ends_the_sweep(checkpoint: Path, tmp_path: Path) -> None:
    sweep = small_sweep(checkpoint, tmp_path, "pool=ray", "model_args.conw=hf")
    with pytest.raises(SweepError, match=r"could not be loaded.*conw"):
        run(sweep)
