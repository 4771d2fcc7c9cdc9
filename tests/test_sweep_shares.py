"""Budgets that are shares, through a sweep: names of cells, records, tables, the report, and the plan."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from lmms_tiny import load_wrapper, save_tiny_llava
from sweeps import run, small_sweep
from typer.testing import CliRunner

from adaptinfer_eval.cli import app
from adaptinfer_eval.report.headings import headings_of
from adaptinfer_eval.report.layouts import Layout
from adaptinfer_eval.report.page.build import report
from adaptinfer_eval.report.render import render
from adaptinfer_eval.report.table import make_table
from adaptinfer_eval.report.units import read_units
from adaptinfer_eval.sweep.cells import plan, prompts_planned_for
from adaptinfer_eval.sweep.config import SweepError, load_config

IMAGE = 36


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"), layers=8)


@pytest.fixture(scope="module")
def sweep(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    config = small_sweep(
        checkpoint,
        tmp_path_factory.mktemp("sweep") / "results",
        "methods=vanilla,adaptinfer,downsample",
        "budgets=12,0.5,0.25",
        "tasks=mini_mme",
        "limit=2",
    )
    records, _, _ = run(config)
    return Path(config.output), records


def test_cells_are_named_by_their_share_and_audited_in_tokens_and_as_shares(
    sweep: tuple[Path, dict[str, Any]],
) -> None:
    _, records = sweep
    record = records["llava-adaptinfer-0.25-mini_mme"]
    assert (record["status"], record["budget"], record["count"]) == ("done", 0.25, "leaving")
    audit = record["audit"]
    assert audit["leaving"] == pytest.approx(0.25 * IMAGE, abs=0.5)
    for count in ("entering", "leaving"):
        assert audit[f"{count}_share"] == pytest.approx(audit[count] / audit["vision_tokens"])
    assert records["llava-downsample-0.25-mini_mme"]["audit"]["entering_share"] == 0.25
    assert records["llava-vanilla-mini_mme"]["audit"]["leaving_share"] == 1


def test_tables_spell_shares_and_csv_has_both_counts_as_shares(sweep: tuple[Path, dict[str, Any]]) -> None:
    folder, by_id = sweep
    records = list(by_id.values())
    made = make_table(records, read_units(folder, records), Layout(headings_of(["mini_mme"])))
    shown = render(made, "md")
    lines = [[cell.strip() for cell in line.split("|")[1:3]] for line in shown.splitlines() if line.startswith("| ")]
    assert [tokens for _, tokens in lines[1:]] == ["36", "12", "12", "50 %", "50 %", "25 %", "25 %"]
    assert "leaving, as a share of the prompt's or leaving, per image" in shown
    assert "(%)" not in shown.replace("Acc. ratio (%)", "")  # in tokens alone
    assert "AdaptInfer, 50 % of the tokens: cannot run: budget=0.5 of 36 vision tokens: " in shown
    rows = list(csv.DictReader(render(made, "csv").splitlines()))
    quarter = next(row for row in rows if (row["Method"], row["Avg. tokens"]) == ("downsample", "25 %"))
    assert (quarter["Entering"], quarter["Entering (%)"], quarter["Leaving (%)"]) == ("9.0", "25.0", "25.0")


def test_records_without_shares_or_vision_tokens_are_still_shown(sweep: tuple[Path, dict[str, Any]]) -> None:
    folder, by_id = sweep
    records = json.loads(json.dumps([record for record in by_id.values() if record["status"] == "done"]))
    units, layout = read_units(folder, records), Layout(headings_of(["mini_mme"]))

    def shares() -> set[str]:
        written = render(make_table(records, units, layout), "csv").splitlines()
        return {row["Leaving (%)"] for row in csv.DictReader(line for line in written if not line.startswith("#"))}

    for record in records:
        del record["audit"]["entering_share"], record["audit"]["leaving_share"]
    assert {"100.0", "25.0"} <= shares()
    for record in records:
        del record["audit"]["vision_tokens"]
    assert shares() == {"–"}


def test_the_report_spells_shares(sweep: tuple[Path, dict[str, Any]]) -> None:
    page = report(sweep[0])
    assert '<option value="0.25">25 %</option>' in page
    assert "at 12 vision tokens and 50 %, 25 % of the vision tokens per layer" in page
    assert "Entering (%)" in page


def test_the_plan_has_both_counts_as_shares_and_says_what_a_share_is() -> None:
    printed = CliRunner().invoke(app, ["plan", "table1", "budgets=0.25", "methods=fastv"]).stdout
    assert re.search(r"\| fastv +\| +25 % \| 1:130 +\| +157.88 \(27.4 %\) \| +143.94 \(25.0 %\) \|", printed)
    assert "In %, a budget is a share of all the vision tokens of a prompt, solved for each; an" in printed
    assert "A budget is per" not in printed
    several = load_config("table1", ["budgets=0.25", "methods=fastv,downsample", "images=3"])
    for planned in plan(several):
        assert planned.audit is not None
        assert planned.audit.leaving_share == pytest.approx(0.25, abs=0.5 / 1728)
    assert "A budget is per image" in prompts_planned_for(load_config("table1", ["budgets=64,0.25"]))


def test_of_images_of_any_size_a_usual_one_is_planned_for() -> None:
    values = ["backbone=qwen2_vl", "pretrained=nowhere/qwen", "budgets=0.25", "methods=fastv"]
    shape = "shape={num_layers: 28, hidden_size: 3584, intermediate_size: 18944, vision_tokens: 1024}"
    said = prompts_planned_for(load_config("table5", [*values, shape, "model_args={}"]))
    assert "of 1024 vision tokens, as many as a usual one has (other" in said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budgets=25%"], "budgets.0: .*a share is written as a number below 1, such as 0.25"),
        (["budgets=0.25", "per=prompt"], "per=prompt goes with a number of tokens, and budget=0.25 is a share"),
        (["budgets=0.25,0.2500000001"], "are both called adaptinfer-0.25: leave one out"),
        (["methods=[{name: fastv, budget: 25%}]"], "a share is written as a number below 1"),
    ],
)
def test_shares_that_cannot_be_meant(overrides: list[str], message: str) -> None:
    with pytest.raises(SweepError, match=message):
        plan(load_config("mini", ["methods=adaptinfer", *overrides]))


def test_shares_are_model_arguments_of_lmms_eval(checkpoint: Path) -> None:
    assert load_wrapper(checkpoint, "llava", "downsample", ",budget=0.25").method.image_budget(IMAGE) == 9
    with pytest.raises(ValueError, match="budget=25%: a share is written as a number below 1"):
        load_wrapper(checkpoint, "llava", "fastv", ",budget=25%")
