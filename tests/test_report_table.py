"""The papers' tables: ratios that the papers print, and cells that are not what they should be."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from adaptinfer_eval.report.table import accuracy_ratio, layout, render, table
from adaptinfer_eval.sweep.config import SweepError, shipped

published = shipped("results/published.yaml")
assert published is not None
PAPER: dict[str, Any] = yaml.safe_load(published.read_text(encoding="utf-8"))["adaptinfer_v1"]
ROWS = [
    (number, method, budget)
    for number in ("table1", "table4", "table_a6")
    for method, budgets in PAPER[number].items()
    for budget in budgets
]
AUDIT = {"entering": 80.0, "leaving": 64.0, "flops": 2e12}


@pytest.mark.parametrize(("number", "method", "budget"), ROWS)
def test_ratios_of_the_papers_own_numbers_are_the_printed_ones(number: str, method: str, budget: int) -> None:
    *scores, printed = PAPER[number][method][budget]
    *vanilla, _ = PAPER[number]["vanilla"][576]
    assert accuracy_ratio(scores, vanilla) == pytest.approx(printed, abs=0.051)


def record(method: str, budget: int | None, task: str, score: float, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"{method}-{budget}-{task}",
        "method": method,
        "options": {},
        "budget": budget,
        "count": None if budget is None else "leaving",
        "task": task,
        "status": "done",
        "reason": "",
        "score": score,
        "questions": 500,
        "questions_available": 500,
        "data": "x",
        "audit": AUDIT,
    } | changes


def sweep(**changes: Any) -> list[dict[str, Any]]:
    return [
        record("adaptinfer", 64, "mini_mme", 900),
        record("adaptinfer", 64, "mini_textvqa", 40, **changes),
        record("fastv", 64, "mini_mme", 500),
        record("fastv", 64, "mini_textvqa", 25),
        record("vanilla", None, "mini_mme", 1000),
        record("vanilla", None, "mini_textvqa", 50),
    ]


def lines(records: list[dict[str, Any]], number: int = 4) -> tuple[dict[str, dict[str, str]], str]:
    frame, notes = table(records, layout(number))
    found = [dict(zip(frame.columns, line, strict=True)) for line in frame.to_numpy().tolist()]
    return {line["Method"]: line for line in found}, "\n".join(notes)


def test_a_full_sweep() -> None:
    found, _ = lines(sweep())
    assert list(found) == ["Vanilla", "FastV", "AdaptInfer"]
    assert found["AdaptInfer"] == {
        "Method": "AdaptInfer",
        "Avg. tokens": "64",
        "MME": "900",
        "TextVQA": "40.0",
        "Acc. ratio (%)": "85.0",
        "Entering": "80.0",
        "Leaving": "64.0",
        "TFLOPs": "1",
    }
    assert found["Vanilla"]["Acc. ratio (%)"] == "100.0"


def test_missing_cells_are_shown_and_leave_no_ratio() -> None:
    found, notes = lines(sweep()[:1] + sweep()[2:])
    assert (found["AdaptInfer"]["TextVQA"], found["AdaptInfer"]["Acc. ratio (%)"]) == ("missing", "–")
    assert found["FastV"]["Acc. ratio (%)"] == "50.0"
    assert "has no score in one of the columns" in notes


@pytest.mark.parametrize("status", ["failed", "cannot run"])
def test_failed_cells_are_shown_with_their_reason(status: str) -> None:
    records = sweep()
    records[1] = {key: records[1][key] for key in ("id", "method", "options", "budget", "count", "task")}
    records[1] |= {"status": status, "reason": "out of memory"}
    found, notes = lines(records)
    assert (found["AdaptInfer"]["TextVQA"], found["AdaptInfer"]["Acc. ratio (%)"]) == (status, "–")
    assert f"{status}: out of memory (mini_textvqa)" in notes


def test_without_vanilla_there_is_no_ratio() -> None:
    found, _ = lines(sweep()[:4])
    assert [line["Acc. ratio (%)"] for line in found.values()] == ["–", "–"]


def test_limited_cells_are_marked() -> None:
    found, notes = lines([{**one, "questions": 100} for one in sweep()])
    assert (found["AdaptInfer"]["MME"], found["AdaptInfer"]["Acc. ratio (%)"]) == ("900*", "85.0")
    assert "TextVQA 100 of 500" in notes


@pytest.mark.parametrize("change", [{"questions": 100}, {"data": "y"}])
def test_cells_with_other_questions_than_vanillas_leave_no_ratio(change: dict[str, Any]) -> None:
    found, _ = lines(sweep(**change))
    assert found["AdaptInfer"]["Acc. ratio (%)"] == "–"


def test_options_make_a_line_of_their_own() -> None:
    found, _ = lines([*sweep(), record("adaptinfer", 64, "mini_mme", 800, options={"variant": "paper"})])
    assert found["AdaptInfer (variant=paper)"]["MME"] == "800"
    assert found["AdaptInfer"]["MME"] == "900"


def test_lines_without_a_budget_stand_where_their_tokens_put_them() -> None:
    explicit = record("fastv", None, "mini_mme", 700, options={"schedule": "1:90"}, audit=AUDIT | {"leaving": 100.4})
    records = [*sweep(), record("fastv", 128, "mini_mme", 800), explicit]
    records[4]["audit"] = AUDIT | {"leaving": 576.0}
    records[5]["audit"] = AUDIT | {"leaving": 576.0}
    frame, _ = table(records, layout(4))
    assert frame["Avg. tokens"].tolist() == ["576", "128", "100", "64", "64"]


def test_every_form_has_all_lines_and_the_notes() -> None:
    frame, notes = table(sweep(), layout(4))
    for form, comment in (("md", ""), ("csv", "# "), ("tex", "% ")):
        text = render(frame, notes, form)
        assert all(name in text for name in ("Vanilla", "FastV", "AdaptInfer", "85.0"))
        assert all(f"{comment}{note}" in text for note in notes)
    with pytest.raises(SweepError, match="md, csv or tex"):
        render(frame, notes, "pdf")


def test_tables_without_a_layout_are_refused() -> None:
    with pytest.raises(SweepError, match="there are 1, 4"):
        layout(3)


def test_two_tasks_for_one_column_are_refused() -> None:
    with pytest.raises(SweepError, match="two tasks stand for MME"):
        table([*sweep(), record("vanilla", None, "adaptinfer_mme", 1000)], layout(4))
