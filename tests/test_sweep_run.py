"""Real sweeps, small: a random LLaVA of eight layers on a few questions of the mini tasks."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from lmms_tiny import save_tiny_llava
from rich.console import Console
from sweeps import answers, run, same_results, small_sweep

from adaptinfer_eval.adaptinfer import AdaptInfer
from adaptinfer_eval.sweep.cells import Cell, Setting, plan
from adaptinfer_eval.sweep.config import MethodEntry, SweepConfig, SweepError, load_config, shipped
from adaptinfer_eval.sweep.journal import Journal, only_run, read_answers
from adaptinfer_eval.sweep.run import run_sweep
from adaptinfer_eval.sweep.score import measure
from adaptinfer_eval.sweep.tasks import load_tasks, questions
from adaptinfer_eval.sweep.worker import read_cost


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"), layers=8)


@pytest.fixture(scope="module")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepConfig, dict[str, Any]]:
    sweep = small_sweep(checkpoint, tmp_path_factory.mktemp("finished"))
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
        written = read_answers(Path(sweep.output), record["id"])
        assert sorted(written) == [0, 1, 2, 3]
        assert all(sum(read_cost(a).entering) / 8 == record["audit"]["entering"] for a in written.values())
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
    Path(sweep.output, "journal", f"{lost['id']}.jsonl").unlink()
    again, _, shown = run(sweep)
    assert "1/1 cells" in shown
    assert again[lost["id"]]["score"] == lost["score"]
    assert answers(sweep, again[lost["id"]]) == answers(sweep, lost)


def test_another_sweep_may_not_write_into_the_folder(finished: tuple[SweepConfig, dict[str, Any]]) -> None:
    sweep, _ = finished
    with pytest.raises(SweepError, match="dtype was 'float32', is 'float16'"):
        run(sweep.model_copy(update={"dtype": "float16"}))
    with only_run(Path(sweep.output)), pytest.raises(SweepError, match="is writing to"):
        run(sweep)


def test_processes_give_what_one_process_gives(
    checkpoint: Path, tmp_path: Path, finished: tuple[SweepConfig, dict[str, Any]]
) -> None:
    spread = small_sweep(checkpoint, tmp_path, "workers=2")
    _, failed, _ = run(spread)
    assert failed == []
    assert same_results(spread, finished[0])


def test_a_failed_cell_is_recorded_and_the_others_go_on(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method that breaks at its third question; once mended, only what is missing is asked."""
    score, calls = AdaptInfer.score, [0]

    def breaks(self: AdaptInfer, attention: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3 * 3:  # three stages per question
            raise RuntimeError("cannot go on")
        return score(self, attention)

    sweep = small_sweep(checkpoint, tmp_path, "batch_size=1", "tasks=mini_gqa")
    with monkeypatch.context() as patch:
        patch.setattr(AdaptInfer, "score", breaks)
        records, failed, _ = run(sweep)
    assert failed == ["llava-adaptinfer-16-mini_gqa"]
    assert records[failed[0]]["status"] == "failed"
    assert "cannot go on" in records[failed[0]]["reason"]
    assert records["llava-vanilla-mini_gqa"]["status"] == "done"
    assert "Traceback" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    records, failed, shown = run(sweep)
    assert failed == []
    assert "1/1 cells" in shown
    assert "2/2 requests" in shown


def test_what_the_model_cannot_run_is_recorded_and_is_no_failure(checkpoint: Path, tmp_path: Path) -> None:
    records, failed, _ = run(small_sweep(checkpoint, tmp_path, "methods=vanilla,downsample,tome", "budgets=40"))
    assert failed == []
    for method in ("downsample", "tome"):
        refused = records[f"llava-{method}-40-mini_mme"]
        assert refused["status"] == "cannot run"
        assert "36 vision tokens" in refused["reason"]
    assert records["llava-vanilla-mini_mme"]["status"] == "done"
    _, _, shown = run(small_sweep(checkpoint, tmp_path, "methods=vanilla,downsample,tome", "budgets=40"))
    assert "0/0 cells" in shown  # nothing is loaded to find out again


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks=mini_mmee", "did you mean 'mini_mme'"),
        ("tasks=adaptinfer_mini", "is a group; list its tasks"),
        ("model_args.conw=hf", "unknown model argument 'conw'"),
        ("methods=vanilla,fastvv", "did you mean 'fastv'"),
        ("limit=3", "mini_mme is scored in pairs of questions, use an even limit"),
    ],
)
def test_mistakes_end_the_sweep(checkpoint: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        run(small_sweep(checkpoint, tmp_path, override))


@pytest.mark.parametrize(
    ("left", "message"),
    [
        (0, r"tasks: the data of mini_gqa are not here: restore \S+gqa\.parquet$"),
        (5000, r"tasks: the data of mini_gqa cannot be read \(ArrowInvalid: .*restore \S+gqa\.parquet$"),
    ],
)
def test_data_that_are_not_there_are_not_blamed_on_the_network(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int, message: str
) -> None:
    shutil.copytree(str(shipped("tasks/mini")), tmp_path / "tasks" / "mini", ignore=shutil.ignore_patterns("model*"))
    shutil.copytree(str(shipped("tasks/paper")), tmp_path / "tasks" / "paper")
    data = tmp_path / "tasks" / "mini" / "data" / "gqa.parquet"
    content = data.read_bytes()[:left]
    data.unlink()
    if content:
        data.write_bytes(content)
    for module in ("tasks", "task_files"):
        monkeypatch.setattr(f"adaptinfer_eval.sweep.{module}.shipped", tmp_path.joinpath)
    with pytest.raises(SweepError, match=message):
        run(small_sweep(checkpoint, tmp_path / "out", "tasks=mini_mme,mini_gqa"))
    assert "Traceback" in (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")


def test_a_worker_that_cannot_start_ends_the_sweep(checkpoint: Path, tmp_path: Path) -> None:
    """What looks like markup of the terminal, in names and reasons, is text like any other."""
    sweep = small_sweep(checkpoint, tmp_path, "model_args={'conw[/x]': hf}", "workers=2", 'name="[/y] :100:"')
    terminal = io.StringIO()
    with pytest.raises(SweepError, match=r"could not be loaded.*conw\[/x\]"):
        run_sweep(sweep, Console(file=terminal, width=1000))
    assert "[/y] :100:: loading tasks" in terminal.getvalue()
    assert "a worker is gone: " in terminal.getvalue()
    assert "conw[/x]" in terminal.getvalue()


def test_an_answer_about_a_question_that_is_not_asked_is_refused(
    tmp_path: Path, finished: tuple[SweepConfig, dict[str, Any]]
) -> None:
    sweep, records = finished
    shutil.copytree(sweep.output, tmp_path / "copy")
    copied = sweep.model_copy(update={"output": str(tmp_path / "copy")})
    name = "llava-adaptinfer-16-mini_mme"
    record_path = tmp_path / "copy" / "cells" / f"{name}.json"
    record_path.unlink()
    journal = tmp_path / "copy" / "journal" / f"{name}.jsonl"
    identity = json.loads(journal.read_text(encoding="utf-8").splitlines()[0])["identity"]
    worker = {key: records[name][key] for key in ("model", "device", "batch_size", "sharing")}
    Journal(tmp_path / "copy", name, identity).write(worker, [read_answers(tmp_path / "copy", name)[0] | {"doc": 99}])
    before = journal.read_bytes()
    with pytest.raises(SweepError, match=rf"{name}.jsonl has an answer about document 99, .*: delete its line"):
        run(copied)
    assert journal.read_bytes() == before
    assert not record_path.exists()


def test_a_task_whose_name_has_a_slash_is_scored(finished: tuple[SweepConfig, dict[str, Any]]) -> None:
    sweep, records = finished
    folder = Path(sweep.output)
    answered = Journal(folder, "slashed", {})
    worker = {"model": "m", "device": "cpu", "batch_size": 4, "sharing": True}
    answered.write(worker, list(read_answers(folder, "llava-vanilla-mini_scienceqa").values()))
    manager, tasks = load_tasks(sweep)
    task = tasks["mini_scienceqa"]
    task.config.task = "mini/scienceqa"
    questions("mini/scienceqa", task, sweep.limit)
    cell = Cell("llava", Setting(MethodEntry(name="vanilla")), "mini/scienceqa")
    measured = measure(sweep, cell, answered, manager, task)
    assert measured["score"] == records["llava-vanilla-mini_scienceqa"]["score"]
    assert Path(folder, measured["answers"]).is_file()


def test_a_folder_that_is_deleted_meanwhile_ends_the_sweep(checkpoint: Path, tmp_path: Path) -> None:
    """Moved away, which is deletion for whoever writes to it; moved back, the sweep goes on."""
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    sweep = small_sweep(checkpoint, folder, "tasks=mini_gqa", "limit=200", "batch_size=1", "methods=vanilla")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, sweep)
        while not running.done() and not any(
            len(path.read_bytes().splitlines()) > 1 for path in folder.glob("journal/*.jsonl")
        ):
            time.sleep(0.001)
        folder.rename(elsewhere)
        with pytest.raises(SweepError, match="was deleted or replaced during the run"):
            running.result()
    assert not folder.exists()
    elsewhere.rename(folder)
    answered = len(read_answers(folder, "llava-vanilla-mini_gqa"))
    _, failed, shown = run(sweep)
    assert failed == []
    assert f"{200 - answered}/{200 - answered} requests" in shown


def test_a_killed_worker_costs_no_cell(
    checkpoint: Path, tmp_path: Path, finished: tuple[SweepConfig, dict[str, Any]]
) -> None:
    sweep = small_sweep(checkpoint, tmp_path, "workers=2", "limit=40")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, sweep)
        while not running.done() and not list(tmp_path.glob("journal/*.jsonl")):
            time.sleep(0.01)
        while not running.done() and all(
            len(path.read_bytes().splitlines()) < 2 for path in tmp_path.glob("journal/*.jsonl")
        ):
            time.sleep(0.01)
        multiprocessing.active_children()[0].kill()
        records, failed, _ = running.result()
    assert failed == []
    assert len(records) == 4
    assert all(record["status"] == "done" for record in records.values())
    for name in records:
        lines = (tmp_path / "journal" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()[1:]
        docs = [answer["doc"] for line in lines for answer in json.loads(line)["answers"]]
        assert sorted(docs) == list(range(40))  # each once


def test_another_batch_size_goes_on_where_the_first_stopped(checkpoint: Path, tmp_path: Path) -> None:
    sweep = small_sweep(checkpoint, tmp_path, "tasks=mini_gqa", "limit=12", "batch_size=8")
    run(sweep)
    journal = tmp_path / "journal" / "llava-adaptinfer-16-mini_gqa.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    journal.write_text("".join(lines[:3]), encoding="utf-8")  # identity, the first question, the rest of its batch
    (tmp_path / "cells" / "llava-adaptinfer-16-mini_gqa.json").unlink()
    whole = read_answers(tmp_path, "llava-vanilla-mini_gqa")
    records, failed, shown = run(sweep.model_copy(update={"batch_size": 5}))
    assert failed == []
    assert "4/4 requests" in shown
    assert read_answers(tmp_path, "llava-adaptinfer-16-mini_gqa").keys() == whole.keys()
    assert records["llava-adaptinfer-16-mini_gqa"]["batch_size"] == [8, 5]


@pytest.mark.parametrize("writes", [2, 7, 11])
def test_a_full_disk_ends_the_sweep_and_nothing_is_lost(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: tuple[SweepConfig, dict[str, Any]],
    writes: int,
) -> None:
    """After so many journal lines and records, whichever they are, the disk is full."""
    left = [writes]
    fsync = os.fsync

    def until_full(file: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    sweep = small_sweep(checkpoint, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", until_full)
        with pytest.raises(SweepError, match=r"No space left on device.*free some space and start the sweep again"):
            run(sweep)
    records, failed, _ = run(sweep)
    assert failed == []
    assert len(records) == 4
    assert same_results(sweep, finished[0])


def test_seeds_and_repeats_are_cells_of_their_own(checkpoint: Path, tmp_path: Path) -> None:
    sweep = small_sweep(
        checkpoint, tmp_path, "methods=vanilla,random", "seeds=0,3", "repeats=2", "tasks=mini_gqa", "limit=8"
    )
    records, failed, _ = run(sweep)
    assert failed == []
    names = ["vanilla", "random-16", "random-16-s3"]
    assert records.keys() == {f"llava-{name}{repeat}-mini_gqa" for name in names for repeat in ("", "-r1")}
    kept = {
        name: [answer["kept"] for answer in read_answers(tmp_path, f"llava-{name}-mini_gqa").values()]
        for name in ("random-16", "random-16-r1", "random-16-s3")
    }
    assert kept["random-16"] == kept["random-16-r1"] != kept["random-16-s3"]


def test_sweeps_do_not_run_under_torchrun(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SweepError, match="workers=N"):
        run(small_sweep(checkpoint, tmp_path))
