"""Real sweeps, small: a random LLaVA of eight layers on a few questions of the mini tasks."""

from __future__ import annotations

import io
import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lmms_tiny import save_tiny_llava
from rich.console import Console

from adaptinfer_eval.sweep.cells import plan
from adaptinfer_eval.sweep.config import SweepConfig, SweepError, load_config
from adaptinfer_eval.sweep.records import read_records
from adaptinfer_eval.sweep.run import run_sweep


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"), layers=8)


def config(checkpoint: Path, output: Path, *overrides: str) -> SweepConfig:
    small = ("budgets=16", "tasks=mini_mme,mini_scienceqa", "limit=4", "batch_size=4", "workers=1")
    where = (f"pretrained={checkpoint}", f"output={output}")
    return load_config("mini", ["methods=vanilla,adaptinfer", *small, *where, *overrides])


def run(sweep: SweepConfig) -> tuple[dict[str, Any], list[str], str]:
    """Records by cell, ids of failed cells, and what the terminal showed."""
    terminal = io.StringIO()
    failed = run_sweep(sweep, Console(file=terminal, width=200))
    records = {record["id"]: record for record in read_records(Path(sweep.output))}
    return records, [outcome.cell.id for outcome in failed], terminal.getvalue()


def answers(sweep: SweepConfig, record: dict[str, Any]) -> list[tuple[int, Any]]:
    lines = Path(sweep.output, record["answers"]).read_text(encoding="utf-8").splitlines()
    return [(sample["doc_id"], sample["filtered_resps"]) for sample in map(json.loads, lines)]


@pytest.fixture(scope="module")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepConfig, dict[str, Any]]:
    sweep = config(checkpoint, tmp_path_factory.mktemp("finished"))
    records, failed, shown = run(sweep)
    assert failed == []
    assert "4/4 cells" in shown
    assert "Postprocessing" not in shown  # upstream's own output goes to the log
    return sweep, records


def test_every_cell_has_a_record_with_answers_and_audit(finished: tuple[SweepConfig, dict[str, Any]]) -> None:
    sweep, records = finished
    costs = {planned.setting.entry.name: planned.audit for planned in plan(sweep)}
    assert len(records) == 4
    for record in records.values():
        cost = costs[record["method"]]
        assert cost is not None
        assert (record["status"], record["questions"], record["questions_available"]) == ("done", 4, 500)
        assert record["schedule"] == cost.schedule
        assert record["audit"]["entering"] == pytest.approx(cost.entering)
        assert record["audit"]["leaving"] == pytest.approx(cost.leaving)
        assert len(answers(sweep, record)) == 4
        results = next(Path(sweep.output, record["answers"]).parent.glob("*_results.json"))
        upstream = json.loads(results.read_text(encoding="utf-8"))["results"][record["task"]]
        assert record["metrics"]
        assert all(upstream[f"{name},none"] == value for name, value in record["metrics"].items())
    assert load_config(str(Path(sweep.output, "config.yaml"))) == sweep


def test_a_second_start_repeats_nothing(finished: tuple[SweepConfig, dict[str, Any]]) -> None:
    sweep, _ = finished
    before = {path: path.read_bytes() for path in Path(sweep.output, "cells").iterdir()}
    records, failed, shown = run(sweep)
    assert {path: path.read_bytes() for path in Path(sweep.output, "cells").iterdir()} == before
    assert (len(records), failed) == (4, [])
    assert "0/0 cells" in shown


def test_a_lost_cell_alone_is_measured_again_and_alike(finished: tuple[SweepConfig, dict[str, Any]]) -> None:
    """Also: what ran before on the same loaded model does not matter."""
    sweep, records = finished
    lost = records["llava-adaptinfer-16-mini_scienceqa"]
    Path(sweep.output, "cells", f"{lost['id']}.json").unlink()
    again, _, shown = run(sweep)
    assert "1/1 cells" in shown
    assert again[lost["id"]]["score"] == lost["score"]
    assert answers(sweep, again[lost["id"]]) == answers(sweep, lost)


def test_another_sweep_may_not_write_into_the_folder(finished: tuple[SweepConfig, dict[str, Any]]) -> None:
    sweep, _ = finished
    with pytest.raises(SweepError, match="seed was 0, is 5"):
        run(sweep.model_copy(update={"seed": 5}))


def test_processes_give_what_one_process_gives(
    checkpoint: Path, tmp_path: Path, finished: tuple[SweepConfig, dict[str, Any]]
) -> None:
    alone, records = finished
    spread = config(checkpoint, tmp_path, "workers=2")
    others, failed, _ = run(spread)
    assert failed == []
    assert others.keys() == records.keys()
    for name, record in others.items():
        assert record["score"] == records[name]["score"]
        assert answers(spread, record) == answers(alone, records[name])


def test_a_failed_cell_is_recorded_and_the_others_go_on(checkpoint: Path, tmp_path: Path) -> None:
    """MME is scored in pairs of questions, so that an odd limit makes upstream's metric fail."""
    records, failed, _ = run(config(checkpoint, tmp_path, "limit=3", "methods=vanilla"))
    assert failed == ["llava-vanilla-mini_mme"]
    assert records["llava-vanilla-mini_mme"]["status"] == "failed"
    assert "pairwise" in records["llava-vanilla-mini_mme"]["reason"]
    assert records["llava-vanilla-mini_scienceqa"]["status"] == "done"
    assert "Traceback" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_what_the_model_cannot_run_is_recorded_and_is_no_failure(checkpoint: Path, tmp_path: Path) -> None:
    records, failed, _ = run(config(checkpoint, tmp_path, "methods=vanilla,downsample", "budgets=40"))
    assert failed == []
    refused = records["llava-downsample-40-mini_mme"]
    assert refused["status"] == "cannot run"
    assert "36 vision tokens" in refused["reason"]
    assert records["llava-vanilla-mini_mme"]["status"] == "done"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks=mini_mmee", "did you mean 'mini_mme'"),
        ("tasks=adaptinfer_mini", "is a group; list its tasks"),
        ("model_args.conw=hf", "unknown model argument 'conw'"),
    ],
)
def test_mistakes_end_the_sweep(checkpoint: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        run(config(checkpoint, tmp_path, override))


def test_a_worker_that_cannot_start_ends_the_sweep(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"could not be loaded.*conw"):
        run(config(checkpoint, tmp_path, "model_args.conw=hf", "workers=2"))


def test_a_killed_worker_loses_its_cell_and_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    sweep = config(checkpoint, tmp_path, "workers=2", "limit=40")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, sweep)
        while not list(tmp_path.glob("cells/*.json")):
            time.sleep(0.01)
        victim = multiprocessing.active_children()[0]
        victim.kill()
        records, failed, _ = running.result()
    assert len(failed) <= 1
    assert all(record["status"] == "done" for record in records.values())
    assert len(records) + len(failed) == 4
    records, failed, _ = run(sweep)
    assert (len(records), failed) == (4, [])


def test_sweeps_do_not_run_under_torchrun(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SweepError, match="workers=N"):
        run(config(checkpoint, tmp_path))
