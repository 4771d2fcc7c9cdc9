"""What papers print: their own ratios, what a sweep of it would run, and which sweeps are compared with it."""

from __future__ import annotations

from typing import Any

import pytest
from sweep_folder import TASKS, good, joined, lines, measured, sweep_of

from adaptinfer_eval.report.layouts import layout
from adaptinfer_eval.report.published import read_published
from adaptinfer_eval.report.ratios import accuracy_ratio
from adaptinfer_eval.report.render import stacked_rows
from adaptinfer_eval.report.table import make_table
from adaptinfer_eval.sweep.cells import plan
from adaptinfer_eval.sweep.config import SweepError, load_config

LINEAGES = read_published()
PAPER: dict[str, Any] = LINEAGES["adaptinfer_v1"]["tables"]
ROWS = [
    (number, method, budget)
    for number in ("table1", "table2", "table4", "table_a6")
    for method, budgets in PAPER[number]["rows"].items()
    for budget in budgets
]


@pytest.mark.parametrize(("number", "method", "budget"), ROWS)
def test_ratios_of_the_papers_own_numbers_are_the_printed_ones(number: str, method: str, budget: int) -> None:
    *scores, printed = PAPER[number]["rows"][method][budget]
    *vanilla, _ = PAPER[number]["rows"]["vanilla"][576]
    assert accuracy_ratio(scores, vanilla) == pytest.approx(printed, abs=0.051)


@pytest.mark.parametrize("lineage", LINEAGES)
def test_published_rows_have_a_number_for_every_column(lineage: str) -> None:
    for name, table in LINEAGES[lineage]["tables"].items():
        assert {"model", "count", "columns", "rows"} <= set(table)
        for numbers in (row for rows in table["rows"].values() for row in rows.values()):
            assert name == "table3" or len(numbers) == len(table["columns"])


@pytest.mark.parametrize("number", ["1", "2", "4", "5", "a6"])
def test_configurations_plan_what_the_paper_prints(number: str) -> None:
    columns = layout(number)
    sweep = load_config(columns.config)
    model = PAPER[columns.config]["model"]
    assert sweep.pretrained == (model.partition("/")[2] if number == "2" else model)  # 2: converted, into a folder
    assert all(any(heading.lower() in task for task in sweep.tasks) for heading in columns.headings if heading != "SQA")
    costs = {planned.setting.label: planned.audit for planned in plan(sweep)}
    out_of_reach = {"sparsevlm-32"} if number == "4" else set()  # an explicit schedule stands in for it
    assert {label for label, cost in costs.items() if cost is None} == out_of_reach
    if number == "5":
        leaving = [cost.leaving for label, cost in costs.items() if cost and label != "vanilla"]
        assert len(leaving) == 4 + 5
        assert leaving == pytest.approx([128] * 9, abs=1)


def test_published_values_and_differences() -> None:
    sweep = sweep_of(TASKS, [48], {"adaptinfer": 0.8})
    found, notes = lines(sweep)
    line, ratio = found["AdaptInfer"], float(found["AdaptInfer"]["Acc. ratio (%)"])
    assert (line["MME published"], line["TextVQA published"]) == ("1490", "53.1")
    assert line["Acc. ratio (%) published"] == "85.5"
    assert line["MME difference"] == f"{float(line['MME']) - 1490:+.0f}"
    assert line["Acc. ratio (%) difference"] == f"{ratio - 85.5:+.1f}"
    assert "published: adaptinfer_v1, AdaptInfer, arXiv 2508.06084v1" in notes
    stacked = stacked_rows(make_table(*sweep, layout("4")))
    below = ["published", "difference"]
    assert [row["Method"] for row in stacked] == ["Vanilla", *below, "AdaptInfer", *below]
    assert (stacked[4]["MME"], stacked[5]["MME"]) == ("1490", line["MME difference"])


def test_other_lineages_have_other_columns() -> None:
    found, notes = lines(good(), "1", "reimplemented")
    assert (found["FastV"]["GQA"], found["FastV"]["GQA published"]) == ("missing", "46.4")
    assert (found["FastV"]["MME published"], found["FastV"]["Acc. ratio (%) published"]) == ("1284", "")
    assert found["AdaptInfer"]["MME published"] == ""
    assert "published: reimplemented" in notes
    assert "reimplemented has none for this table" in lines(good(), "4", "reimplemented")[1]
    with pytest.raises(SweepError, match="did you mean 'reimplemented'"):
        lines(good(), "4", "reimplementd")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pretrained": "tasks/mini/model", "checkpoint": "e3b0c4"}, "the sweep's checkpoint is tasks/mini/model"),
        ({"count": "entering"}, "count tokens leaving, and the sweep's tokens entering"),
        ({"model_args": {"conv": "hf"}}, "model_args (conv=hf) change what the model is given"),
        ({"model_args": {"image_aspect_ratio": "crop", "conv": "vicuna_v1"}}, "model_args (image_aspect_ratio=crop) "),
    ],
)
def test_other_sweeps_are_not_compared_with_what_is_published(change: dict[str, Any], reason: str) -> None:
    found, notes = lines(good(**change))
    assert "MME published" not in found["AdaptInfer"]
    assert reason in notes


def test_model_args_of_the_same_input_are_compared() -> None:
    same = {"image_aspect_ratio": "pad", "conv": "vicuna_v1", "attn_implementation": "eager"}
    assert lines(good(model_args=same))[0]["Vanilla"]["MME published"] == "1864"


@pytest.mark.parametrize("task", ["mme", "mini_mme"])
def test_other_tasks_than_the_papers_are_not_compared(task: str) -> None:
    found, notes = lines(sweep_of([task, "adaptinfer_textvqa"], [48], {"adaptinfer": 0.8}))
    assert found["AdaptInfer"]["MME"] != "missing"
    assert "TextVQA published" not in found["AdaptInfer"]
    assert f"the sweep's tasks are others: {task}." in notes


@pytest.mark.parametrize(
    ("method", "budget", "options", "title"),
    [
        ("adaptinfer", 64, {"variant": "paper"}, "AdaptInfer (variant=paper)"),
        ("sparsevlm", 64, {"variant": "plus"}, "SparseVLM (variant=plus)"),
        ("fastv", None, {"schedule": "5:40"}, "FastV (schedule=5:40)"),
    ],
)
def test_methods_with_other_options_than_the_papers_are_not_compared(
    method: str, budget: int | None, options: dict[str, str], title: str
) -> None:
    plain = sweep_of(TASKS, [64], {"sparsevlm": 0.6, "fastv": 0.5, "adaptinfer": 0.8})
    found, notes = lines(joined(plain, measured(method, budget, "adaptinfer_mme", 0.7, options=options)), "1")
    assert (found[title]["Avg. tokens"], found[title]["MME published"]) == ("64", "")
    assert found[title.split(" ")[0]]["MME published"] != ""
    assert f"Not compared: {title}: " in notes


def test_an_explicit_schedule_is_compared_with_what_is_published_for_its_tokens() -> None:
    audit = {"entering": 51.0, "leaving": 32.2, "flops": 2e12}
    explicit = measured("sparsevlm", None, "adaptinfer_mme", 0.7, options={"schedule": "1:25,6:11,15:6"}, audit=audit)
    found, _ = lines(joined(good(), explicit))
    assert found["SparseVLM (schedule=1:25,6:11,15:6)"]["MME published"] == "1098"
