"""`adaptinfer-eval regress`: the shipped model answers as results/baselines/ci.json has it, and a drop is seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shell import call

import adaptinfer_eval as ae
from adaptinfer_eval.report.regress import Baseline, difference_table, differences, read_baseline, tolerance
from adaptinfer_eval.sweep.records import read_records
from adaptinfer_eval.sweep.units import Units

READING = "llava-adaptinfer-64-mini_textvqa"
"""A cell that lives on which vision tokens are kept."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `ci` sweep, really run."""
    folder = tmp_path_factory.mktemp("ci")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call(monkeypatch, "run", "ci", f"output={folder}") == 0
    return folder


@pytest.fixture
def copied(sweep: Path, tmp_path: Path) -> Path:
    """Its records, to be changed."""
    for part in ("cells", "scores"):
        shutil.copytree(sweep / part, tmp_path / "sweep" / part)
    shutil.copy(sweep / "config.yaml", tmp_path / "sweep")
    return tmp_path / "sweep"


@pytest.fixture
def records(sweep: Path) -> dict[str, dict[str, Any]]:
    return {record["id"]: record for record in read_records(sweep)}


def change(folder: Path, name: str, **changes: Any) -> None:
    path = folder / "cells" / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def only(name: str) -> Baseline:
    return Baseline(cells={name: read_baseline("ci").cells[name]})


def test_the_shipped_model_holds_the_committed_baseline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sweep: Path
) -> None:
    code = call(monkeypatch, "regress", "ci", "--results", sweep)
    shown = capsys.readouterr().out
    assert code == 0, shown
    assert "40 cells: " in shown
    assert " 0 failed." in shown


def test_a_broken_method_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """AdaptInfer that keeps the tokens it should drop."""
    method = ae.get_method("adaptinfer")
    right = method.score
    monkeypatch.setattr(method, "score", lambda self, attention: -right(self, attention))
    cells = ("methods=adaptinfer", "tasks=mini_textvqa", "workers=1")  # in this process, where it is broken
    assert call(monkeypatch, "run", "ci", *cells, f"output={tmp_path / 'broken'}") == 0
    baseline = tmp_path / "reading.json"
    baseline.write_text(only(READING).model_dump_json(), encoding="utf-8")
    capsys.readouterr()
    assert call(monkeypatch, "regress", baseline, "--results", tmp_path / "broken") == 1
    shown = capsys.readouterr().out
    (row,) = (line for line in shown.splitlines() if READING in line)
    cell, was, now, difference, allowed, verdict = (part.strip() for part in row.strip("|").split("|"))
    assert (cell, verdict) == (READING, "DROP")
    assert float(now) - float(was) == pytest.approx(float(difference), abs=0.11)
    assert float(difference) < -float(allowed) < 0
    assert "1 cells: 0 the same, 0 differ, 1 failed." in shown


def test_scores_of_a_worse_method_are_seen(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    copied: Path,
    records: dict[str, dict[str, Any]],
) -> None:
    for task in ("mini_gqa", "mini_textvqa"):
        change(copied, f"llava-adaptinfer-64-{task}", score=records[f"llava-random-64-{task}"]["score"])
    assert call(monkeypatch, "regress", "ci", "--results", copied) == 1
    failures = [line for line in capsys.readouterr().out.splitlines() if "DROP" in line]
    assert any(READING in line for line in failures)


def test_missing_failed_and_refused_cells_are_failures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], copied: Path
) -> None:
    (copied / "cells" / "llava-vanilla-mini_gqa.json").unlink()
    change(copied, "llava-vanilla-mini_mme", status="failed", reason="RuntimeError: no memory")
    change(copied, "llava-fastv-64-mini_mme", status="cannot run", reason="too few layers")
    assert call(monkeypatch, "regress", "ci", "--results", copied) == 1
    shown = capsys.readouterr().out
    assert "| missing " in shown
    assert "failed: RuntimeError: no memory" in shown
    assert "cannot run: too few layers" in shown
    assert " 3 failed." in shown


@pytest.mark.parametrize("key", ["checkpoint", "data", "schedule"])
def test_a_baseline_of_something_else_does_not_apply(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], copied: Path, key: str
) -> None:
    change(copied, READING, **{key: "another"})
    assert call(monkeypatch, "regress", "ci", "--results", copied) == 1
    shown = capsys.readouterr().out
    assert f"baseline does not apply: other {key}" in shown
    assert "measure what the baseline did" in shown


def test_better_and_new_cells_are_reported_and_no_failures(records: dict[str, dict[str, Any]]) -> None:
    was = only(READING).cells[READING]
    better = {**records[READING], "score": was.score + was.tolerance + 0.1}
    verdicts = {d.cell: d for d in differences(only(READING), [better, records["llava-vanilla-mini_gqa"]])}
    assert verdicts[READING].verdict == "better"
    assert verdicts["llava-vanilla-mini_gqa"].verdict == "not in the baseline"
    assert not any(difference.failed for difference in verdicts.values())
    assert f"+{was.tolerance + 0.1:.1f}" in difference_table(list(verdicts.values()))


def test_the_tolerance_is_the_limit(records: dict[str, dict[str, Any]]) -> None:
    was = only(READING).cells[READING]
    for change_by, failed in ((-0.999 * was.tolerance, False), (-1.001 * was.tolerance, True)):
        (difference,) = differences(only(READING), [{**records[READING], "score": was.score + change_by}])
        assert difference.failed is failed


def test_tolerance_is_two_binomial_errors() -> None:
    def units(values: list[float], combine: Any = "mean", categories: tuple[str, ...] = ()) -> Units:
        names = tuple(map(str, range(len(values))))
        return Units(combine, 100.0, names, categories or ("",) * len(values), np.array(values))

    share = 31 / 102  # 30 of 100 right, and one more right, one more wrong
    assert tolerance(units([1.0] * 30 + [0.0] * 70)) == pytest.approx(200 * (share * (1 - share) / 100) ** 0.5)
    assert tolerance(units([1.0] * 100)) > 200 / 100 * 0.9  # a question or two, where all are right
    one = tolerance(units([2.0, 0.5, 0.0], "sum of category means", ("a",) * 3))
    both = tolerance(units([2.0, 0.5, 0.0] * 2, "sum of category means", ("a",) * 3 + ("b",) * 3))
    assert both == pytest.approx(2**0.5 * one)


def test_update_makes_a_baseline_that_the_sweep_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], copied: Path, tmp_path: Path
) -> None:
    change(copied, "llava-fastv-64-mini_mme", status="cannot run", reason="too few layers")
    made = tmp_path / "made.json"
    assert call(monkeypatch, "regress", made, "--results", copied, "--update") == 0
    assert len(read_baseline(str(made)).cells) == 39
    assert call(monkeypatch, "regress", made, "--results", copied) == 0
    assert "39 cells: 39 the same" in capsys.readouterr().out

    (copied / "cells" / f"{READING}.json").unlink()
    assert call(monkeypatch, "regress", made, "--results", copied, "--update") == 1
    assert f"lacks cells ({READING}): finish the sweep first" in capsys.readouterr().err


def test_mistakes_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sweep: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "regress", "cii", "--results", sweep) == 1
    assert "did you mean 'ci'" in capsys.readouterr().err
    assert call(monkeypatch, "regress", "some.json") == 1
    assert "give --results" in capsys.readouterr().err
    Path("some.json").write_text('{"baseline": 1, "cells": {"a": {"score": "high"}}}')
    assert call(monkeypatch, "regress", "some.json", "--results", sweep) == 1
    assert "make it again with --update" in capsys.readouterr().err
