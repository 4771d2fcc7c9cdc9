"""A sweep that is killed, for real and at random moments, ends with the tables of one that was not."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from lmms_tiny import save_tiny_llava
from sweeps import same_results, small_sweep

from adaptinfer_eval.sweep.config import SweepConfig

KILLS = 2


def start(sweep: SweepConfig) -> subprocess.Popen[str]:
    config = Path(sweep.output).with_suffix(".yaml")
    config.write_text(sweep.dump(), encoding="utf-8")
    command = [sys.executable, "-m", "adaptinfer_eval.cli", "run", str(config)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    shown, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return shown.split("\n\nRecords: ")[0]


def journaled(folder: Path) -> list[tuple[str, int]]:
    """(cell, document) of every answer on the disk, torn lines left out."""
    found = []
    for path in sorted(folder.glob("journal/*.jsonl")):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        answers = (json.loads(line).get("answers", []) for line in lines if line.endswith("\n"))
        found += [(path.stem, answer["doc"]) for batch in answers for answer in batch]
    return found


def test_killed_and_resumed_it_repeats_nothing_and_prints_the_same(tmp_path: Path) -> None:
    """With a worker in the sweep's process, and with two in processes of their own."""
    checkpoint = save_tiny_llava(tmp_path / "tiny", layers=8)
    given = ("methods=vanilla,adaptinfer,random,tome", "limit=60", "batch_size=5")
    whole = small_sweep(checkpoint, tmp_path / "whole", *given)
    expected = finish(start(whole))
    assert "AdaptInfer" in expected
    for workers in (1, 2):
        killed = small_sweep(checkpoint, tmp_path / f"killed-{workers}", *given, f"workers={workers}")
        folder = Path(killed.output)
        kill_some_times(killed, random.Random(workers))
        assert finish(start(killed)) == expected
        assert max(Counter(journaled(folder)).values()) == 1  # no request was answered twice
        assert same_results(killed, whole)


def kill_some_times(sweep: SweepConfig, moments: random.Random) -> None:
    folder = Path(sweep.output)
    before: list[tuple[str, int]] = []
    for _ in range(KILLS):
        process = start(sweep)
        # Some while after the first new answer, so that the kill hits the work and not the loading of the model.
        while len(journaled(folder)) == len(before) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL  # it had not ended by itself
        after = journaled(folder)
        assert Counter(before) <= Counter(after)  # nothing that was on the disk is lost
        before = after
