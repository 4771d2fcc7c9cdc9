"""Workers and their threads never exceed the cores that they may use, unless the user says otherwise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from lmms_tiny import save_tiny_llava
from sweeps import run, small_sweep

from adaptinfer_eval.methods.method import get_method
from adaptinfer_eval.sweep import threads
from adaptinfer_eval.sweep.threads import cores, threads_of_each


@pytest.mark.parametrize("available", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_workers_with_their_threads_never_exceed_the_cores(workers: int, available: int) -> None:
    each = threads_of_each(workers, available)
    assert each >= 1
    assert workers * each <= max(available, workers)
    if available >= 2 * workers:  # there is a core for everyone's preparing thread too, and none is left idle
        assert workers * (each + 1) <= available < workers * (each + 2)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 6),
        ({"cpu.max": "max 100000\n"}, 6),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.max": "900000 100000\n"}, 6),
    ],
)
def test_cores_are_those_bound_to_and_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert cores() == expected


@pytest.mark.parametrize(("wanted", "expected"), [(None, 3), ("1", 2)])
def test_a_worker_in_this_process_computes_with_its_share_and_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str | None, expected: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if wanted:
        monkeypatch.setenv("OMP_NUM_THREADS", wanted)  # torch has read it long ago: it is left as it is
    monkeypatch.setattr(threads, "cores", lambda: 4)
    seen = []
    adaptinfer = get_method("adaptinfer")
    score: Any = adaptinfer.score

    def watched(self: object, attention: object) -> Any:
        seen.append(torch.get_num_threads())
        return score(self, attention)

    monkeypatch.setattr(adaptinfer, "score", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        checkpoint = save_tiny_llava(tmp_path / "model", layers=8)
        assert run(small_sweep(checkpoint, tmp_path / "out", "tasks=mini_gqa"))[1] == []
        assert set(seen) == {expected}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
