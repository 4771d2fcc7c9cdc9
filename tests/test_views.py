"""Other views of a sweep: several side by side, questions that need the tokens, categories, cost beside accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import binomtest
from sweep_folder import Sweep, measured, record, sweep_of, units, write_sweep
from typer.testing import CliRunner

from adaptinfer_eval.cli import app
from adaptinfer_eval.report.beside import Swept, read_swept, side_by_side
from adaptinfer_eval.report.categories import categories_of, difference_text, most_different
from adaptinfer_eval.report.layouts import Layout
from adaptinfer_eval.report.pareto import Spot, front_of, latencies, pareto
from adaptinfer_eval.report.ratios import Ratio
from adaptinfer_eval.report.rows import lines_of
from adaptinfer_eval.report.split import Share, splits_of
from adaptinfer_eval.report.table import make_table
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.units import Units

TASKS = ("adaptinfer_gqa", "adaptinfer_textvqa")


def folders(tmp_path: Path, **sweeps: Sweep) -> list[Path]:
    return [write_sweep(tmp_path / name, sweep) for name, sweep in sweeps.items()]


def beside(tmp_path: Path, **sweeps: Sweep) -> tuple[list[dict[str, str]], str]:
    made = side_by_side(read_swept(folders(tmp_path, **sweeps)))
    return made.rows, "\n".join(made.notes)


def differences(rows: list[dict[str, str]], method: str) -> list[dict[str, str]]:
    """The rows of differences below those of a method."""
    return [row for n, row in enumerate(rows) if row["Method"] == "difference" and rows[n - 1]["Method"] == method]


def test_lines_of_several_sweeps_are_aligned_and_never_averaged(tmp_path: Path) -> None:
    first = sweep_of(TASKS, [64], {"fastv": 0.5, "adaptinfer": 0.8})
    rows, notes = beside(tmp_path, may=first, june=sweep_of(TASKS, [64], {"fastv": 0.7, "pdrop": 0.6}))
    shown = [(row["Method"], row["Sweep"]) for row in rows]
    assert shown[:3] == [("Vanilla", "may"), ("Vanilla", "june"), ("difference", "june - may")]
    (change,) = [
        row for n, row in enumerate(rows) if row["Method"] == "difference" and rows[n - 1]["Method"] == "FastV"
    ]
    scores = [units("adaptinfer_gqa", right).score() for right in (0.5, 0.7)]
    assert change["GQA"] == f"{scores[1] - scores[0]:+.1f}!"
    assert rows[2]["GQA"] == "+0.0"
    assert "Only in may: AdaptInfer at 64." in notes
    assert "Only in june: PDrop at 64." in notes
    assert "Nothing is averaged over sweeps." in notes


def test_what_was_not_asked_alike_is_said_and_not_compared(tmp_path: Path) -> None:
    whole = sweep_of(TASKS, [64], {"fastv": 0.5})
    other = sweep_of(TASKS[:1], [64], {"fastv": 0.7}, data="z", questions=100)
    both = [*other[0], *sweep_of(TASKS[1:], [64], {"fastv": 0.7})[0]]
    scored = other[1] | sweep_of(TASKS[1:], [64], {"fastv": 0.7})[1]
    rows, notes = beside(tmp_path, whole=whole, part=(both, scored))
    (change,) = [
        row for n, row in enumerate(rows) if row["Method"] == "difference" and rows[n - 1]["Method"] == "FastV"
    ]
    assert change["GQA"] == "–"
    assert change["TextVQA"].startswith("+")
    assert "Not asked alike: GQA: whole 500 questions (data x); part 100 questions (data z)." in notes
    assert "Acc. ratio: of each sweep to its own vanilla, over TextVQA, which all sweeps asked alike." in notes
    assert next(row["GQA"] for row in rows if row["Sweep"] == "part").endswith("*")


def test_other_checkpoints_and_counts_are_said(tmp_path: Path) -> None:
    leaving = sweep_of(TASKS, [64], {"fastv": 0.5})
    entering = sweep_of(TASKS, [64], {"fastv": 0.6}, count="entering", checkpoint="other@1")
    rows, notes = beside(tmp_path, a=leaving, b=entering)
    assert "Different checkpoint: a llava-hf/llava-1.5-7b-hf@0123abc; b other@1." in notes
    assert "Budgets count differently, so that lines are not compared: a leaving, per image; b entering" in notes
    assert differences(rows, "FastV") == []


def test_a_folder_twice_and_other_columns_are_refused(tmp_path: Path) -> None:
    (folder,) = folders(tmp_path, a=sweep_of(TASKS, [64], {"fastv": 0.5}))
    with pytest.raises(SweepError, match="names a folder twice"):
        read_swept([folder, folder])
    with pytest.raises(SweepError, match="no sweep has one of the columns POPE"):
        side_by_side(read_swept([folder], Layout(("POPE",))))
    shown = CliRunner().invoke(app, ["table", "1", "--verdicts", "--results", str(folder), "--results", str(folder)])
    assert isinstance(shown.exception, SweepError)


def test_one_sweep_alone_has_no_differences() -> None:
    records, scored = sweep_of(TASKS, [64], {"fastv": 0.5})
    swept = Swept("x", records, scored, ("GQA", "TextVQA"), Layout(("GQA", "TextVQA")))
    assert len(side_by_side([swept]).rows) == 2


def answered(folder: Path, **methods: list[int]) -> Path:
    """A sweep of GQA at 64 tokens, with which questions each method gets right."""
    for name, rights in methods.items():
        made = record(name, None if name == "vanilla" else 64, "adaptinfer_gqa", 100 * float(np.mean(rights)))
        ids = tuple(map(str, range(len(rights))))
        scores = Units("mean", 100.0, ids, ("",) * len(rights), np.array(rights, float)).to_json()
        for sub, content in (("cells", made), ("scores", {**scores, "rights": list(enumerate(rights))})):
            (folder / sub).mkdir(parents=True, exist_ok=True)
            (folder / sub / f"{made['id']}.json").write_text(json.dumps(content))
    return folder


VANILLA = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
SMALL = [0, 0, 0, 0, 1, 1, 1, 1, 0, 1]
FASTV = [1, 1, 1, 0, 1, 1, 0, 0, 1, 0]


def test_questions_that_need_the_tokens_are_those_that_downsample_gets_wrong(tmp_path: Path) -> None:
    folder = answered(tmp_path / "s", vanilla=VANILLA, downsample=SMALL, fastv=FASTV)
    records = [json.loads(path.read_text()) for path in sorted((folder / "cells").glob("*.json"))]
    lines = lines_of(records, Layout(("GQA",)))
    found = {split.title: split for split in splits_of(lines, folder, ["GQA"])}
    fastv = found["FastV"]
    assert (fastv.needing, fastv.rest) == (Share(4, 5), Share(2, 5))
    assert (fastv.kept, fastv.lost, fastv.gained, fastv.both_wrong) == (5, 3, 1, 1)
    assert fastv.p_value() == pytest.approx(binomtest(3, 4).pvalue)
    assert (found["downsample"].needing, found["downsample"].rest) == (Share(0, 5), Share(5, 5))
    shown = CliRunner().invoke(app, ["table", "1", "--questions", "--results", str(folder)])
    row = next(line for line in shown.stdout.splitlines() if line.startswith("| FastV"))
    assert [cell.strip() for cell in row.split("|")[4:12]] == [
        "5", "80.0 (37.6–96.4)", "5", "40.0 (11.8–76.9)", "8", "5", "3", "1",
    ]  # fmt: skip


def test_without_downsample_only_kept_and_lost_are_known(tmp_path: Path) -> None:
    folder = answered(tmp_path / "s", vanilla=VANILLA, fastv=FASTV)
    shown = CliRunner().invoke(app, ["table", "1", "--questions", "--results", str(folder)])
    assert "downsample was not measured at this budget" in shown.stdout
    row = next(line for line in shown.stdout.splitlines() if line.startswith("| FastV"))
    assert [cell.strip() for cell in row.split("|")[4:9]] == ["–", "–", "–", "–", "8"]
    alone = answered(tmp_path / "t", fastv=FASTV)
    refused = CliRunner().invoke(app, ["table", "1", "--questions", "--results", str(alone)])
    assert "no method and vanilla that were asked the same questions" in str(refused.exception)


def test_an_unchanged_answer_is_no_evidence() -> None:
    assert Share(0, 0).text() == "–"


def test_categories_have_intervals_and_the_most_different_come_first() -> None:
    cells = [measured("vanilla", None, "adaptinfer_mme", 0.9)]
    cells += [measured(name, 64, "adaptinfer_mme", right) for name, right in (("fastv", 0.4), ("adaptinfer", 0.8))]
    records, scored = [one for records, _ in cells for one in records], {k: v for _, s in cells for k, v in s.items()}
    table = make_table(records, scored, Layout(("MME",)))
    found = categories_of(table.lines, "MME", table.units)
    assert [one.name for one in found] == [f"category {n}" for n in range(4)]
    for line in table.lines:
        total = sum(one.scores[line.place.title].value for one in found)
        assert total == pytest.approx(line.cells["MME"].score)
    for one in found:
        low, high = one.scores["FastV"].interval or (0, 0)
        assert low <= one.scores["FastV"].value <= high
        assert low < high
    first = most_different(found)
    assert [one.spread for one in first] == sorted((one.spread for one in found), reverse=True)
    assert first[0].ends == ("AdaptInfer", "FastV")
    assert difference_text(first[0]).startswith(f"MME, {first[0].name} at 64 (25 questions): AdaptInfer ")


def ratio(value: float) -> Ratio:
    return Ratio(value, None, (value - 1, value + 1), "")


def test_the_front_has_what_no_other_is_better_than_for_as_much() -> None:
    told = {"cheap": (10, 60), "worse": (12, 55), "middle": (20, 80), "same cost": (20, 79), "dear": (40, 80)}
    told["best"] = (50, 95)
    spots = [Spot(name, 64, cost, ratio(value)) for name, (cost, value) in told.items()]
    assert [spot.name for spot in front_of(spots)] == ["cheap", "middle", "best"]


def timed(method: str, budget: int | None, share: float, **changes: Any) -> dict[str, Any]:
    numbers = {"first_token": {"to_vanilla": share}}
    told: dict[str, Any] = {
        "status": "done",
        "method": method,
        "options": {},
        "budget": budget,
        "attention": "sdpa",
        "batch_size": 1,
    }
    where = {"subject": "a model", "device": "cpu", "cpu": "a cpu", "dtype": "float32", "runs": 3}
    return {**told, **where, "measured": numbers, **changes}


def test_latency_is_of_the_smallest_batch_and_a_mean_over_lengths_of_text() -> None:
    bench = [timed("fastv", 64, 0.2), timed("fastv", 64, 0.4), timed("fastv", 64, 0.9, batch_size=8)]
    found, condition = latencies(bench)
    assert found == {("fastv", "{}", 64): pytest.approx(30)}
    assert "a model on cpu (a cpu), sdpa, batch 1, float32" in condition
    assert latencies([timed("fastv", 64, 0.2, status="failed")]) == ({}, latencies([])[1])
    assert "no method beside vanilla" in latencies([])[1]


def test_cost_is_beside_accuracy(tmp_path: Path) -> None:
    made = sweep_of(TASKS, [64], {"fastv": 0.5, "adaptinfer": 0.8})
    for one in made[0]:
        one["audit"]["flops"] = 4e12 if one["method"] == "vanilla" else 1e12
    table = make_table(*made, Layout(("GQA", "TextVQA")))
    (flops, latency), notes = pareto(table.lines, table.ratios, [timed("fastv", 64, 0.2)])
    assert {spot.name: spot.cost for spot in flops.spots} == {"FastV": 25, "AdaptInfer": 25}
    assert [spot.name for spot in flops.front] == ["AdaptInfer"]
    assert [(spot.name, spot.cost) for spot in latency.spots] == [("FastV", 20)]
    assert "Not in the benchmark: AdaptInfer." in notes
    folder = write_sweep(tmp_path / "sweep", made)
    shown = CliRunner().invoke(app, ["figure", "pareto", "--results", str(folder), "--output", str(tmp_path / "p")])
    assert "FLOPs, traced: On the front: AdaptInfer at 64." in shown.stdout
    assert ElementTree.parse(tmp_path / "p.svg").getroot().tag.endswith("svg")


def test_views_are_one_at_a_time(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["table", "1", "--questions", "--categories"])
    assert isinstance(shown.exception, SweepError)
