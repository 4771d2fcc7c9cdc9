"""`adaptinfer-eval shift` and `figure 2`, 3 and a6, as a user calls them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lmms_tiny import save_tiny_llava
from rich.console import Console
from shell import call
from test_start import COMMAND, started

from adaptinfer_eval.analysis.asked import read_asked
from adaptinfer_eval.analysis.results import write_results
from adaptinfer_eval.analysis.shift import measure_shift
from adaptinfer_eval.analysis.sums import Sums
from adaptinfer_eval.sweep.config import load_config

MINI = ("--pretrained", "tasks/mini/model", "--tasks", "mini_mme,mini_textvqa", "--samples", 4, "--dtype", "float32")
PAPERS = [0.0, 40, *[1] * 8, *[20, 30, 25, 35, 40, 30, 35, 25, 30, 20, 18], *[1] * 11]
"""Dense at layer 1 and from 10 to 20 of 32 layers, like Figure 3."""


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


def test_the_mini_models_shifts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "shift", *MINI) == 0
    shown = capsys.readouterr()
    assert "| mini_textvqa | 4 of 501  | none" in shown.out
    assert "No layers are proposed" in shown.out
    assert "8/8 samples" in shown.err
    folder = tmp_path / "results" / "runs" / "shift-model"
    assert f"{folder.relative_to(tmp_path)}/shift.json" in shown.out
    written = json.loads((folder / "shift.json").read_bytes())
    assert (written["layers"], written["samples"], written["proposed"]) == (32, 4, None)
    assert {task: (len(counts), sum(counts)) for task, counts in written["histograms"].items()} == {
        "mini_mme": (32, 4 * 58),
        "mini_textvqa": (32, 4 * 58),
    }
    assert not (folder / "schedule.yaml").exists()

    # Drawn again, the same, without torch.
    for number, stem in (("3", "figure3"), ("a6", "figure_a6")):
        printed, code, heavy = started(tmp_path, COMMAND, "figure", number, "--results", folder)
        assert (code, heavy) == (0, ["matplotlib"])
        assert printed.split() == [f"{stem}.png", f"{stem}.svg"]
        for kind in ("png", "svg"):
            assert (tmp_path / f"{stem}.{kind}").read_bytes() == (folder / f"figure3.{kind}").read_bytes()

    # Stopped while another task is measured, it goes on.
    more = ("shift", *MINI[:3], f"{MINI[3]},mini_gqa", *MINI[4:])
    with monkeypatch.context() as stopping:
        stopping.setattr(Sums, "add", stopped)
        assert call(stopping, *more) == 130
    assert "the same command goes on where this one stopped" in capsys.readouterr().err
    assert call(monkeypatch, *more) == 0
    again = json.loads((folder / "shift.json").read_bytes())["histograms"]
    assert list(again) == ["mini_mme", "mini_textvqa", "mini_gqa"]
    assert again["mini_mme"] == written["histograms"]["mini_mme"]


def test_what_is_proposed_is_a_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    asked = read_asked("shift", "tasks/mini/model", ["mini_mme"], 2, output=folder, budgets=[64, 1])
    measured = measure_shift(asked, Console(file=io.StringIO()))
    proposal, paths = write_results(asked, measured | {"histograms": {"mini_mme": PAPERS}})
    assert proposal is not None
    assert sorted(path.name for path in paths) == ["figure3.png", "figure3.svg", "schedule.yaml", "shift.json"]
    proposed = json.loads((folder / "shift.json").read_bytes())["proposed"]
    assert proposed["layers"] == [1, 10, 20]
    assert list(proposed["schedules"]) == ["64"]
    assert list(proposed["unreachable"]) == ["1"]
    sweep = load_config(str(folder / "schedule.yaml"))
    assert sweep.pretrained == "tasks/mini/model"
    assert call(monkeypatch, "plan", folder / "schedule.yaml") == 0
    assert proposed["schedules"]["64"] in capsys.readouterr().out
    write_results(asked, measured | {"histograms": {"mini_mme": [1] * 32}})  # measured anew: nothing old stays
    assert not (folder / "schedule.yaml").exists()


def test_key_text_tokens_of_a_tiny_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checkpoint = save_tiny_llava(tmp_path / "tiny", layers=8)
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "figure", "2", "--pretrained", checkpoint, "--task", "mini_mmbench", "--samples", 5) == 0
    numbers, png, svg = map(Path, capsys.readouterr().out.split())
    written: dict[str, Any] = json.loads(numbers.read_bytes())
    assert (written["layers"], written["measured"], written["task"]) == (8, 5, "mini_mmbench")
    assert np.array(written["overlap"]).shape == (8, 8)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "mini_mmbench, 5 samples" in svg.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shift", "--pretrained", "no/where", "--tasks", "mini_mme"), "no/where could not be found"),
        (("shift", "--pretrained", "tasks/mini/model", "--tasks", "mini_mmee"), "did you mean 'mini_mme'"),
        (("shift", *MINI, "--budgets", "64,all"), "budgets.1: Input should be a valid number, not 'all'"),
        (("shift", *MINI, "limit=3"), "'limit=3': only model_args.NAME=... and gpus_per_worker=N"),
        (("figure", "2", "--pretrained", "tasks/mini/model", "--task", "mini_mme", "--samples", "0"), "samples=0"),
        (("figure", "3", "--results", "nowhere"), "there is no nowhere/shift.json: write it with"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("adaptinfer-eval: ")
    assert message in shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{}", '{"layers": 3, "histograms": {}, "measured": {}, "proposed": null}', "[1]"])
def test_a_damaged_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    (tmp_path / "shift.json").write_text(text)
    assert call(monkeypatch, "figure", "3", "--results", tmp_path) == 1
    assert "shift.json is damaged" in capsys.readouterr().err
