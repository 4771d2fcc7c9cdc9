"""The papers' tables from a sweep: ratios, marks, and cells that are not what they should be."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from sweep_folder import TASKS, Sweep, good, joined, lines, measured, record, sweep_of, units, write_sweep
from typer.testing import CliRunner

from adaptinfer_eval.cli import app
from adaptinfer_eval.report.headings import heading, headings_of
from adaptinfer_eval.report.layouts import layout
from adaptinfer_eval.report.ratios import accuracy_ratio
from adaptinfer_eval.report.render import csv_rows, render, stacked_rows
from adaptinfer_eval.report.table import make_table
from adaptinfer_eval.report.units import read_units
from adaptinfer_eval.sweep.config import SweepError, load_config
from adaptinfer_eval.sweep.records import read_records

LOCATIONS = ("0,9,18,27", "2,12,22", "1", "3", "2,15", "2,8,16", "3,6,23")


def replaced(sweep: Sweep, number: int, **changes: Any) -> Sweep:
    records, scores = sweep
    return [one | changes if place == number else one for place, one in enumerate(records)], scores


def test_a_full_sweep() -> None:
    found, notes = lines(good())
    assert list(found) == ["Vanilla", "FastV", "AdaptInfer"]
    scores = {task: (units(task, 0.8).score(), units(task, 0.9).score()) for task in TASKS}
    ratio = accuracy_ratio(*zip(*scores.values(), strict=True))
    line = found["AdaptInfer"]
    assert (line["MME"], line["TextVQA"]) == (
        f"{scores['adaptinfer_mme'][0]:.0f}",
        f"{scores['adaptinfer_textvqa'][0]:.1f}",
    )
    assert line["Acc. ratio (%)"] == f"{ratio:.1f}"
    assert float(line["Ratio low"]) < ratio < float(line["Ratio high"])
    assert (line["Avg. tokens"], line["Entering"], line["Leaving"], line["TFLOPs"]) == ("64", "80.0", "64.0", "1")
    assert (line["Group"], found["FastV"]["Group"], found["Vanilla"]["Group"]) == ("a", "b", "")
    assert found["Vanilla"]["Acc. ratio (%)"] == "100.0"
    assert "share a letter do not differ" in notes


def test_methods_that_do_not_differ_share_a_letter() -> None:
    found, _ = lines(sweep_of(TASKS, [64], {"fastv": 0.5, "pdrop": 0.795, "adaptinfer": 0.8}))
    assert [found[name]["Group"] for name in ("FastV", "PDrop", "AdaptInfer")] == ["b", "a", "a"]


def test_missing_cells_are_shown_and_leave_no_ratio() -> None:
    records, scores = good()
    found, notes = lines((records[:3] + records[4:], scores))
    assert (found["FastV"]["TextVQA"], found["FastV"]["Acc. ratio (%)"]) == ("missing", "–")
    assert found["FastV"]["Ratio low"] == found["FastV"]["Group"] == ""
    assert found["AdaptInfer"]["Acc. ratio (%)"] != "–"
    assert "has no score in one of the columns" in notes


@pytest.mark.parametrize("status", ["failed", "cannot run"])
def test_failed_cells_are_shown_with_their_reason(status: str) -> None:
    records, scores = good()
    made = record("fastv", 64, "adaptinfer_textvqa", None, status=status, reason="out of memory")
    made = {key: value for key, value in made.items() if key not in ("score", "scores", "audit", "questions")}
    found, notes = lines(([*records[:3], made, *records[4:]], scores))
    assert (found["FastV"]["TextVQA"], found["FastV"]["Acc. ratio (%)"]) == (status, "–")
    assert f"FastV, 64 tokens: {status}: out of memory (adaptinfer_textvqa)" in notes


def test_without_vanilla_there_is_no_ratio() -> None:
    records, scores = good()
    found, _ = lines((records[2:], scores))
    assert [line["Acc. ratio (%)"] for line in found.values()] == ["–", "–"]


def test_limited_cells_are_marked() -> None:
    found, notes = lines(sweep_of(TASKS, [48], {"adaptinfer": 0.8}, questions=100))
    assert found["AdaptInfer"]["MME"].endswith("*")
    assert found["AdaptInfer"]["Acc. ratio (%)"] != "–"
    assert found["AdaptInfer"]["MME difference"].endswith("*")
    assert found["AdaptInfer"]["Acc. ratio (%) difference"].endswith("*")
    assert "TextVQA 100 of 500" in notes


@pytest.mark.parametrize("change", [{"questions": 100}, {"data": "y"}])
def test_cells_with_other_questions_than_vanillas_leave_no_ratio(change: dict[str, Any]) -> None:
    found, _ = lines(replaced(good(), 5, **change))
    assert (found["AdaptInfer"]["Acc. ratio (%)"], found["FastV"]["Acc. ratio (%)"] != "–") == ("–", True)


def test_options_make_a_line_of_their_own() -> None:
    found, _ = lines(joined(good(), measured("adaptinfer", 64, "adaptinfer_mme", 0.7, options={"variant": "paper"})))
    assert found["AdaptInfer (variant=paper)"]["MME"] == f"{units('adaptinfer_mme', 0.7).score():.0f}"
    assert found["AdaptInfer"]["MME"] == f"{units('adaptinfer_mme', 0.8).score():.0f}"


def test_lines_without_a_budget_stand_where_their_tokens_put_them() -> None:
    audit = {"entering": 120.0, "leaving": 100.4, "flops": 2e12}
    explicit = measured("fastv", None, "adaptinfer_mme", 0.7, options={"schedule": "1:90"}, audit=audit)
    table = make_table(*joined(good(), measured("fastv", 128, "adaptinfer_mme", 0.7), explicit), layout("4"))
    assert [f"{line.tokens:g}" for line in table.lines] == ["576", "128", "100", "64", "64"]


def seeded(*rights: float) -> Sweep:
    cells = [measured("random", 64, task, right, seed=n) for n, right in enumerate(rights) for task in TASKS]
    return joined(good(), *cells)


def test_seeds_are_one_line_with_mean_and_spread() -> None:
    found, notes = lines(seeded(0.5, 0.6, 0.7))
    scores = [units("adaptinfer_textvqa", right).score() for right in (0.5, 0.6, 0.7)]
    assert found["random"]["TextVQA"] == f"{sum(scores) / 3:.1f}"
    low, middle, high = sorted(scores)
    deviation = ((low**2 + middle**2 + high**2 - (low + middle + high) ** 2 / 3) / 2) ** 0.5
    assert found["random"]["TextVQA ±"] == f"{deviation:.1f}"
    assert found["random"]["Acc. ratio (%) ±"] not in ("", "0.0")
    assert found["FastV"]["TextVQA ±"] == ""
    assert "random at 64 tokens: mean ± standard deviation over seeds 0, 1, 2." in notes
    stacked = {row["Method"]: row for row in stacked_rows(make_table(*seeded(0.5, 0.6, 0.7), layout("4")))}
    assert stacked["random"]["TextVQA"] == f"{found['random']['TextVQA']} ±{deviation:.1f}"


def test_a_seed_that_failed_or_is_missing_leaves_no_mean() -> None:
    records, scores = seeded(0.5, 0.6, 0.7)
    found, notes = lines(([*records[:-1], records[-1] | {"status": "failed", "reason": "lost"}], scores))
    assert (found["random"]["TextVQA"], found["random"]["Acc. ratio (%)"]) == ("failed (1 of 3)", "–")
    assert "random, 64 tokens, seed 2: failed: lost" in notes
    found, _ = lines((records[:-1], scores))
    assert found["random"]["TextVQA"] == "missing (1 of 3)"


def locations(*extra: Sweep) -> Sweep:
    tasks = (*TASKS, "adaptinfer_gqa")
    cells = [measured("vanilla", None, task, 0.9) for task in tasks]
    cells += [measured("adaptinfer", 128, task, 0.8) for task in tasks]
    cells += [measured("adaptinfer", 128, task, 0.7, options={"layers": at}) for at in LOCATIONS for task in tasks]
    return joined(*cells, *extra)


def test_table5_has_pruning_locations_and_the_mean_of_five_random_ones() -> None:
    audit = {"entering": 144.6, "leaving": 128.0, "flops": 2e12}
    options = {"schedule": "2:368,4:184,8:92,16:46"}
    fifth = [
        measured("adaptinfer", None, task, 0.6, options=options, audit=audit) for task in (*TASKS, "adaptinfer_gqa")
    ]
    table = make_table(*locations(*fifth), layout("5"))
    rows = csv_rows(table)
    assert [(row["Method"], row["Pruning loc."]) for row in rows] == [
        ("Vanilla", "–"),
        ("Ours", "1,10,20"),
        ("Uniform", "0,9,18,27"),
        ("Uniform", "2,12,22"),
        ("Single", "1"),
        ("Random", "–"),
    ]
    assert [row["GQA published"] for row in rows] == ["", "58.5", "57.6", "57.5", "53.7", "56.4"]
    mean = (4 * units("adaptinfer_gqa", 0.7).score() + units("adaptinfer_gqa", 0.6).score()) / 5
    assert (rows[-1]["GQA"], rows[-1]["Avg. tokens"]) == (f"{mean:.1f}", "128")
    assert any("pruning locations {3}, {2,15}, {2,8,16}, {3,6,23}, {2,4,8,16}" in note for note in table.notes)


def test_table5_leaves_other_options_and_schedules_to_lines_of_their_own() -> None:
    paper = [
        measured("adaptinfer", 128, task, 0.6, options={"variant": "paper"}) for task in (*TASKS, "adaptinfer_gqa")
    ]
    halved = measured("adaptinfer", None, "adaptinfer_gqa", 0.5, options={"schedule": "1:290,10:72,20:18"})
    found, notes = lines(locations(*paper, halved), "5")
    assert found["Ours"]["GQA"] == f"{units('adaptinfer_gqa', 0.8).score():.1f}"
    other, explicit = found["AdaptInfer (variant=paper)"], found["AdaptInfer (schedule=1:290,10:72,20:18)"]
    assert (other["GQA"], other["GQA published"]) == (f"{units('adaptinfer_gqa', 0.6).score():.1f}", "")
    assert (explicit["Avg. tokens"], explicit["GQA published"]) == ("64", "")
    assert "Not compared: AdaptInfer (variant=paper), AdaptInfer (schedule=1:290,10:72,20:18): " in notes


@pytest.mark.parametrize(
    ("layers", "title"), [("1,9,17", "Found layers"), ("1,10,20", "Ours, found layers"), ("4,5,6", "Other")]
)
def test_table5_has_a_line_for_the_layers_that_were_found(tmp_path: Path, layers: str, title: str) -> None:
    found = [measured("adaptinfer", 128, "adaptinfer_gqa", 0.6, options={"layers": layers})]
    folder = write_sweep(tmp_path / "sweep", locations(*([] if layers == "1,10,20" else found)))
    named = {"path": "runs/shift.json", "num_layers": 32, "layers": "1,9,17" if title == "Other" else layers}
    config = load_config("table5", [f"shift={named}", f"output={folder}"])
    (folder / "config.yaml").write_text(config.dump(), encoding="utf-8")
    shown = CliRunner().invoke(app, ["table", "5", "--results", str(folder), "--format", "csv"])
    rows = {row["Pruning loc."]: row["Method"] for row in csv.DictReader(shown.stdout.splitlines())}
    assert rows[layers] == title
    assert rows["2,12,22"] == "Uniform"
    shown = CliRunner().invoke(app, ["table", "5", "--results", str(folder)])
    assert f"Found: attention shifts around the layers {named['layers']} (runs/shift.json)." in shown.stdout


def test_table5_needs_all_five_random_locations() -> None:
    rows = csv_rows(make_table(*locations(), layout("5")))
    assert (rows[-1]["Method"], rows[-1]["GQA"], rows[-1]["Acc. ratio (%)"]) == ("Random", "missing (1 of 5)", "–")


def test_every_form_has_all_lines_and_the_notes() -> None:
    table = make_table(*good(), layout("4"))
    for form, comment in (("md", ""), ("csv", "# "), ("tex", "% ")):
        text = render(table, form)
        assert all(name in text for name in ("Vanilla", "FastV", "AdaptInfer", "100.0"))
        assert all(f"{comment}{note}" in text for note in table.notes)
        assert text == render(make_table(*good(), layout("4")), form)
    body = [line for line in render(table, "csv").splitlines() if not line.startswith("#")]
    assert list(csv.DictReader(body)) == csv_rows(table)
    with pytest.raises(SweepError, match="md, csv or tex"):
        render(table, "pdf")


@pytest.mark.parametrize(("form", "sign"), [("csv", "#"), ("tex", "%")])
def test_a_reason_of_several_lines_stays_a_comment(form: str, sign: str) -> None:
    records, scores = good()
    reason = "OutOfMemoryError: too much\n\tat layer 3\r\nTextVQA,1,2"
    made = records[3] | {"status": "failed", "reason": reason}
    text = render(make_table([*records[:3], made, *records[4:]], scores, layout("4")), form)
    body, _, comments = text.partition(f"\n{sign} ")
    assert all(line.startswith(f"{sign} ") for line in comments.splitlines()[1:])
    assert f"{sign} TextVQA,1,2 (adaptinfer_textvqa)" in comments
    assert "at layer 3" not in body


def test_scores_by_unit_are_read_and_must_be_the_records(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", good())
    records = read_records(folder)
    read = read_units(folder, records)
    assert render(make_table(records, read, layout("4")), "md") == render(make_table(*good(), layout("4")), "md")
    scores = folder / records[0]["scores"]
    for damage, message in (('{"combine": ', "cannot be read"), ('{"combine": "mean"}', "cannot be read")):
        scores.write_text(damage)
        with pytest.raises(SweepError, match=rf"{message}.*start the sweep again"):
            read_units(folder, records)
    scores.write_text(json.dumps(units("adaptinfer_gqa", 0.1).to_json()))
    with pytest.raises(SweepError, match="has the score"):
        read_units(folder, records)
    scores.unlink()
    with pytest.raises(SweepError, match=r"is missing: delete .*start the sweep again"):
        read_units(folder, records)


def test_tables_without_a_layout_are_refused() -> None:
    with pytest.raises(
        SweepError, match=r"no table '6': there are 1, 2, 4, 5, a6, cdpruner:1, .* of a sweep, and 3 of a benchmark"
    ):
        layout("6")
    assert layout("A6") == layout("a6")


def test_two_tasks_for_one_column_are_refused() -> None:
    with pytest.raises(SweepError, match="two tasks stand for MME"):
        lines(joined(good(), measured("vanilla", None, "mini_mme", 0.9)))


@pytest.mark.parametrize("task", ["gqa_ru", "mmbench_ru_dev", "mme_realworld", "pope_adv"])
def test_tasks_that_no_paper_has_keep_their_names(task: str) -> None:
    assert heading(task) == task


def test_every_task_shipped_for_the_papers_has_a_column() -> None:
    for name in ("table1", "mini"):
        assert headings_of(load_config(name).tasks) == layout("1").headings
