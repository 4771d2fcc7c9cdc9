"""Workers on a Ray cluster: a local one with two CPU actors, one of them killed while it answers."""

from __future__ import annotations

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
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"), layers=8)


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
        commands = {process.pid: str(process.info["cmdline"]) for process in psutil.process_iter(["cmdline"])}
        os.kill(next(pid for pid, command in commands.items() if "ray::Actor" in command), signal.SIGKILL)
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
def test_a_model_that_no_actor_can_load_ends_the_sweep(checkpoint: Path, tmp_path: Path) -> None:
    sweep = small_sweep(checkpoint, tmp_path, "pool=ray", "model_args.conw=hf")
    with pytest.raises(SweepError, match=r"could not be loaded.*conw"):
        run(sweep)
