"""The command line: what it prints, and that its exit code is 0 only when all went well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lmms_tiny import save_tiny_llava

import adaptinfer_eval as ae
from adaptinfer_eval.cli import main

LLAVA_7B = "{num_layers: 32, hidden_size: 4096, intermediate_size: 11008, vision_tokens: 576}"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of `adaptinfer-eval ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["adaptinfer-eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_methods_lists_all_with_their_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "methods") == 0
    shown = capsys.readouterr().out
    assert all(f"| {name} " in shown for name in ae.available_methods())
    assert "variant" in shown


def test_plan_shows_costs_without_a_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shape = f"shape={LLAVA_7B}"
    assert call(monkeypatch, "plan", "table1", shape, "methods=vanilla,adaptinfer,pdrop", "count=leaving") == 0
    shown = capsys.readouterr().out
    assert "1:133,10:27,20:3" in shown
    assert "0.9749" in shown
    assert call(monkeypatch, "plan", "table1", shape, "methods=fastv", "budgets=32", "count=entering") == 0
    assert "cannot run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "minni"), "did you mean 'mini'"),
        (("run", "mini", "budgts=3"), "did you mean 'budgets'"),
        (("run", "mini", "methods=fastvv"), "did you mean 'fastv'"),
        (("table", "1", "--results", "nowhere"), "run a sweep with output=nowhere first"),
        (("tabel", "1"), "No such command"),
    ],
)
def test_mistakes_are_named_and_not_successes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *arguments) != 0
    assert message in capsys.readouterr().err


def test_run_prints_the_table_and_fails_when_a_cell_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    checkpoint = save_tiny_llava(tmp_path / "model")
    small = ("methods=vanilla,fastv", "budgets=20", "tasks=mini_mme,mini_textvqa", "batch_size=4", "workers=1")
    where = (f"pretrained={checkpoint}", f"output={tmp_path / 'out'}")
    assert call(monkeypatch, "run", "mini", *small, *where, "limit=4") == 0
    shown = capsys.readouterr().out
    assert "| FastV" in shown
    assert "TextVQA 4 of " in shown

    assert call(monkeypatch, "table", "4", "--results", tmp_path / "out", "--format", "csv") == 0
    assert capsys.readouterr().out.startswith("Method,Avg. tokens,MME,TextVQA,Acc. ratio (%)")

    assert call(monkeypatch, "run", "mini", *small, where[0], f"output={tmp_path / 'odd'}", "limit=3") == 1
    assert "failed: llava-fastv-20-mini_mme: " in capsys.readouterr().err
