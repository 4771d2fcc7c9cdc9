"""What reproduces: one word for every published number; and what may be filed as evidence."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from sweep_folder import TASKS, Sweep, good, joined, measured, record, sweep_of, units, write_sweep
from typer.testing import CliRunner

from adaptinfer_eval.cli import app
from adaptinfer_eval.report.evidence import PAGE, file_evidence, page, write_page
from adaptinfer_eval.report.layouts import layout
from adaptinfer_eval.report.verdicts import Verdict, verdicts_of
from adaptinfer_eval.sweep.config import SweepError, load_config
from adaptinfer_eval.sweep.units import Units

ROOT = Path(__file__).parent.parent
MADE: dict[str, Any] = {
    "backbone": "llava",
    "dtype": "float16",
    "engine": "e" * 64,
    "versions": {"torch": "2.14.1"},
    "device": "a GPU",
    "date": "2026-01-01T00:00:00",
}


def scored(task: str, right: int, of: int) -> Units:
    made = units(task, 0.0, of)
    made.values[:right] = 1.0
    return made


def words(sweep: Sweep, number: str = "4") -> dict[tuple[str, float, str], str]:
    return {(one.title, one.tokens, one.column): one.word for one in verdicts_of(sweep[0], sweep[1], layout(number))[0]}


def test_a_number_inside_the_interval_agrees() -> None:
    inside = scored("adaptinfer_textvqa", 530, 1000)
    below = scored("adaptinfer_textvqa", 400, 1000)
    vanilla = scored("adaptinfer_textvqa", 583, 1000)
    records = [
        record("vanilla", None, "adaptinfer_textvqa", vanilla.score()),
        record("adaptinfer", 48, "adaptinfer_textvqa", inside.score()),
        record("sparsevlm", 48, "adaptinfer_textvqa", below.score()),
    ]
    found = words((records, dict(zip([one["id"] for one in records], [vanilla, inside, below], strict=True))))
    assert found["AdaptInfer", 48, "TextVQA"] == "agrees"  # 53.1 is published
    assert found["SparseVLM", 48, "TextVQA"] == "differs"  # 48.1
    assert found["Vanilla", 576, "TextVQA"] == "agrees"
    assert found["AdaptInfer", 48, "MME"] == found["AdaptInfer", 32, "TextVQA"] == "not measured"
    assert ("Vanilla", 576, "ratio") not in found
    assert Verdict("x", 64, "GQA", 58.3, 58.26, (58.26, 58.26), 0.05).word == "agrees"  # but for rounding


def test_every_published_number_has_one_word() -> None:
    found = words(sweep_of(TASKS, [48, 32], {"sparsevlm": 0.5, "adaptinfer": 0.8}))
    assert len(found) == 2 + 4 * 3
    assert "not measured" not in found.values()
    assert set(words(sweep_of(TASKS, [48, 32], {"adaptinfer": 0.8}, questions=100)).values()) == {"not measured"}
    other, notes = verdicts_of(*good(checkpoint="e3b0c4", pretrained="tasks/mini/model"), layout("4"))
    assert {one.word for one in other} == {"not measured"}
    assert "Nothing of this sweep is compared: " in notes[-1]
    locations = words(joined(measured("vanilla", None, "adaptinfer_gqa", 0.9)), "5")
    assert locations["Random", 128, "GQA"] == locations["Ours", 128, "MME"] == "not measured"


@pytest.mark.parametrize("name", ["1", "5", "wide", "cdpruner:1"])
def test_without_a_sweep_nothing_is_measured(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["table", name, "--verdicts", "--format", "csv"])
    assert shown.exit_code == 0
    rows = list(csv.DictReader(line for line in shown.stdout.splitlines() if not line.startswith("#")))
    assert {row["Verdict"] for row in rows} == {"not measured"}
    assert f"# {len(rows)} numbers of " in shown.stdout


def test_a_lineage_without_numbers_has_no_verdicts() -> None:
    with pytest.raises(SweepError, match="reimplemented prints no numbers for this table"):
        verdicts_of([], {}, layout("4"), "reimplemented")


def test_verified_is_made_from_what_is_filed() -> None:
    filed = [json.loads(path.read_text("utf-8")) for path in sorted((ROOT / "results/evidence").glob("*.json"))]
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(filed)
    assert filed or "Nothing is filed yet" in page(filed)


def filed_sweep(folder: Path, **changes: Any) -> Path:
    tasks = ("adaptinfer_mme", "adaptinfer_textvqa")
    made = write_sweep(folder, sweep_of(tasks, [48], {"adaptinfer": 0.8}, **{**MADE, **changes}))
    (made / "config.yaml").write_text(load_config("table4").dump(), encoding="utf-8")
    return made


def test_a_sweep_is_filed_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = file_evidence(filed_sweep(tmp_path / "sweep"))
    assert path == Path("results/evidence/table4-0123abc.json")
    filed = json.loads(path.read_text(encoding="utf-8"))
    assert filed["tasks"] == {"adaptinfer_mme": "1.0", "adaptinfer_textvqa": "1.0"}
    assert filed["hardware"] == ["a GPU"]
    (one,) = [one for one in filed["results"] if (one["method"], one["task"]) == ("adaptinfer", "adaptinfer_textvqa")]
    assert one["interval"][0] < one["score"] < one["interval"][1]
    assert {row["Verdict"] for row in filed["verdicts"]["table 4, adaptinfer_v1"]} >= {"differs", "not measured"}
    text = write_page().read_text(encoding="utf-8")
    assert "## table4: llava-hf/llava-1.5-7b-hf@0123abc" in text
    assert "Nothing is filed" not in text
    assert path.stat().st_size < 20_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "e3b0c44298fc"}, "whose weights nobody else can find"),
        ({"questions": 100}, "asked 100 of 500 questions of adaptinfer_mme: evidence is of whole tasks"),
        ({"status": "failed"}, "has cells without a result"),
    ],
)
def test_what_is_no_evidence_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SweepError, match=message):
        file_evidence(filed_sweep(tmp_path / "sweep", **changes))
