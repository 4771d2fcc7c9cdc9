"""docs/scaling.md shows what benchmarks/scaling.py prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from scaling import Assumed, computing, row, tower_flops, work_of

from adaptinfer_eval.sweep.cells import plan
from adaptinfer_eval.sweep.config import load_config
from adaptinfer_eval.sweep.task_size import task_sizes

ROOT = Path(__file__).parent.parent


def test_the_docs_show_what_the_script_prints() -> None:
    command = [sys.executable, "benchmarks/scaling.py", "--gpus", "8", "64"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    docs = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert all(line.strip() in docs for line in printed.splitlines())


def test_flops_are_the_papers_and_a_counters() -> None:
    """Table 3 on MME, twice its multiply-adds; CLIP-L/14-336 has 304 million weights, used by each of 577 tokens."""
    config = load_config("table1", ["sharing=false"])
    vanilla = next(planned for planned in plan(config) if planned.setting.label == "vanilla")
    flops = computing(config, [vanilla], "adaptinfer_mme", Assumed(sustained=1))
    assert flops == pytest.approx(2374 * 2 * 4.268e12, rel=1e-3)
    assert tower_flops(config) == pytest.approx(2 * 577 * 304e6, rel=0.2)


def test_what_is_shared_is_counted_once() -> None:
    config = load_config("table1")
    shared, alone = work_of(config, Assumed()), work_of(load_config("table1", ["sharing=false"]), Assumed())
    assert shared.requests == alone.requests == 11 * 26298
    pictures = sum(size.questions * size.pictures_begun(8) for size in task_sizes(config.tasks).values())
    # Each of a batch's pictures once for all, and for ToMe's two budgets.
    assert alone.tower / shared.tower == pytest.approx(11 * 26298 / (3 * pictures))
    assert shared.prefill < 0.75 * alone.prefill
    assert shared.decode == alone.decode


def test_the_main_process_is_the_limit_of_many() -> None:
    work = work_of(load_config("table1"), Assumed())
    assert row(work, 1000, Assumed())[-2] == row(work, 100, Assumed())[-2]
    assert float(row(work, 8, Assumed())[-2]) > 2 * float(row(work, 64, Assumed())[-2])
