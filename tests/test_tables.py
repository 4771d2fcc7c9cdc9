"""Tables are files: each has columns that are known, a configuration, published rows whose averages are checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_folder import joined, measured, sweep_of, units
from typer.testing import CliRunner

from adaptinfer_eval.cli import app
from adaptinfer_eval.report.headings import headings
from adaptinfer_eval.report.layouts import Layout, layout
from adaptinfer_eval.report.published import Published, make_published, published, read_published
from adaptinfer_eval.report.render import csv_rows, stacked_rows
from adaptinfer_eval.report.table import make_table
from adaptinfer_eval.sweep.config import SweepError, load_config
from adaptinfer_eval.sweep.units import Units

FOLDER = Path(__file__).parent.parent / "results" / "tables"
NAMES = [path.stem.replace("-", ":") for path in FOLDER.glob("*.yaml")]
PRINTED = [(name, table) for name, told in read_published().items() for table in told["tables"] if table != "table3"]
MARKED = {("scope", tokens) for tokens in (192, 128, 64)}
"""Rows whose printed average is not that of their numbers."""
OPEN = ("adaptinfer_gqa", "adaptinfer_mme")


def known(lineage: str, table: str) -> Published:
    told = read_published()[lineage]
    return make_published(told["source"], told["tables"][table])


@pytest.mark.parametrize("name", NAMES)
def test_every_table_has_known_columns_a_configuration_and_what_it_compares_with(name: str) -> None:
    columns = layout(name)
    assert set(columns.headings) <= headings().keys()
    assert load_config(columns.config).name == columns.config
    for lineage in columns.published:
        assert published(columns, lineage) is not None
    if columns.rows:
        printed = [published(columns, lineage) for lineage in columns.published]
        assert set(columns.rows) <= {row for one in printed if one for row in one.rows} | {"adaptinfer"}
        own = published(columns, columns.lineage)
        assert own is not None
        assert set(own.columns) & set(columns.headings)


@pytest.mark.parametrize(("lineage", "table"), PRINTED)
def test_columns_of_published_numbers_are_known_headings(lineage: str, table: str) -> None:
    found = known(lineage, table)
    average = {found.average.column} if found.average else set()
    assert set(found.columns) - average <= headings().keys()


@pytest.mark.parametrize(("lineage", "table"), PRINTED)
def test_averages_made_of_the_published_numbers_are_the_printed_ones_or_marked(lineage: str, table: str) -> None:
    found = known(lineage, table)
    wrong = {(name, tokens) for name, tokens in found.lines() if found.misfit(name, tokens) is not None}
    assert wrong == (MARKED if lineage == "scope" else set())
    assert found.average or not any(title.startswith("Avg") for title in found.columns)


def test_a_garbled_number_is_noticed() -> None:
    told = read_published()["eadp"]["tables"]["llava15_7b"]
    row = [78.5 if number == 75.0 else number for number in told["rows"]["cdpruner"][64]]
    garbled = make_published("a paper", {**told, "rows": {**told["rows"], "cdpruner": {64: row}}})
    assert garbled.misfit("cdpruner", 64) == pytest.approx(62.3, abs=0.05)
    assert garbled.misfit("fastv", 64) is None


def test_marked_rows_are_shown_and_explained() -> None:
    table = make_table([], {}, layout("scope:1"))
    shown = {row["Method"] + row["Acc. ratio (%)"] for row in stacked_rows(table)}
    assert "published98.3†" in shown
    assert "published98.9" in shown
    assert any(
        "† The numbers in the row do not make" in note and "SCOPE at 192 tokens 98.4" in note for note in table.notes
    )


def test_what_nobody_has_measured_is_not_measured() -> None:
    table = make_table(*sweep_of(OPEN, [64], {"fastv": 0.5}), layout("wide"))
    rows = {(row["Method"], row["Avg. tokens"]): row for row in csv_rows(table)}
    assert rows["FastV", "64"]["GQA"] == f"{units('adaptinfer_gqa', 0.5).score():.1f}"
    assert rows["FastV", "64"]["POPE"] == "missing"
    assert rows["FastV", "192"]["GQA"] == "not measured"
    assert (rows["VisPruner", "64"]["GQA"], rows["VisPruner", "64"]["GQA published"]) == ("not measured", "55.8")
    assert rows["VisPruner", "64"]["GQA difference"] == ""


def test_an_average_is_as_the_lineage_defines_it_and_over_all_its_columns() -> None:
    found = known("eadp_vlmevalkit", "qwen25vl_7b")
    assert found.average is not None
    scores = dict(zip(found.average.of, [80, 70, 60, 50, 40, 2000, 30, 20], strict=True))
    assert found.average.value(scores, {}) == (80 + 70 + 60 + 50 + 40 + 100 + 30 + 20) / 8
    assert found.average.value({**scores, "MME": 2000} | {"POPE": 1}, {}) is not None
    assert found.average.value({title: 1 for title in found.average.of[1:]}, {}) is None
    table = make_table(*sweep_of(OPEN, [64], {"fastv": 0.5}), layout("eadp:1"))
    row = next(row for row in csv_rows(table) if (row["Method"], row["Avg. tokens"]) == ("FastV", "64"))
    assert (row["Avg9"], row["Avg9 published"]) == ("–", "47.3")
    assert any("Avg9: the mean of VQAv2, GQA, " in note and "MMEp/20" in note for note in table.notes)


def test_mmes_perception_is_a_part_of_mme() -> None:
    made = Units("sum of category means", 100.0, ("1", "2", "3"), ("color", "count", "coding"), units("x", 1, 3).values)
    (records, _) = measured("vanilla", None, "adaptinfer_mme", 0.9)
    scored = {records[0]["id"]: made}
    records[0]["score"] = made.score()
    table = make_table(records, scored, Layout(("MME", "MMEp")))
    assert (csv_rows(table)[0]["MME"], csv_rows(table)[0]["MMEp"]) == ("300", "200.0")
    without = joined(measured("vanilla", None, "adaptinfer_mme", 0.9))  # its categories are others
    assert csv_rows(make_table(*without, Layout(("MME", "MMEp"))))[0]["MMEp"] == "missing"


def test_a_table_of_ones_own_is_one_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "columns: [GQA, POPE]\nconfig: wide\nrows: [vanilla, divprune]\nlineage: reimplemented\n"
        "published: {reimplemented: table1}\nbudgets: [64]\n"
    )
    shown = CliRunner().invoke(app, ["table", str(file)])
    assert shown.exit_code == 0
    lines = [line.replace(" ", "") for line in shown.stdout.splitlines() if line.startswith("| published")]
    assert [line.split("|")[3:5] for line in lines] == [["61.9", "85.9"], ["57.1", "85.3"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("columns: [GQA]\ncolumn: 3\n", r"mine.yaml: unknown key 'column': did you mean 'columns'"),
        ("config: wide\n", "mine.yaml: columns are missing"),
        ("columns: [GQA]\nbudgets: [many]\n", "mine.yaml: budgets.0: "),
        ("- GQA\n", "is not a mapping"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(SweepError, match=message):
        layout(str(file))


def test_sweeps_given_otherwise_are_not_compared() -> None:
    """LLaVA-NeXT's published tokens are those of a flat packing; Qwen's tables are of upstream's own tasks."""
    next_7b = {"pretrained": "llava-hf/llava-v1.6-vicuna-7b-hf", "checkpoint": "llava-hf/llava-v1.6-vicuna-7b-hf@1"}
    table = make_table(*sweep_of(OPEN, [64], {"fastv": 0.5}, **next_7b), layout("eadp:2"))
    assert any("a model given packing=flat, which the sweep's model_args do not say" in note for note in table.notes)
    flat = make_table(
        *sweep_of(OPEN, [64], {"fastv": 0.5}, model_args={"packing": "flat"}, **next_7b), layout("eadp:2")
    )
    assert flat.published is not None
    own = make_table(*sweep_of(["adaptinfer_textvqa"], [64], {"fastv": 0.5}), layout("idpruner:1"))
    assert any("the sweep's tasks are others: adaptinfer_textvqa" in note for note in own.notes)
