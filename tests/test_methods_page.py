"""docs/methods.md: every method has its paragraph, and its tables are what their commands print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import adaptinfer_eval as ae
from adaptinfer_eval.cli import app

PAGE = (Path(__file__).parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")
COMMANDS = [" ".join(found.split()) for found in re.findall(r"`adaptinfer-eval (plan [^`]*)`", PAGE)]


def test_every_method_has_a_paragraph() -> None:
    paragraphs = re.findall(r"^\*\*.*?(?=\n\n|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    named = {name for paragraph in paragraphs for name in re.findall(r"\*\*(\w+)\*\*", paragraph)}
    assert named >= set(ae.available_methods())


@pytest.mark.parametrize("command", COMMANDS)
def test_tables_are_what_their_commands_print(command: str) -> None:
    """Of what each setting costs; the page says nothing of whole sweeps."""
    shown = CliRunner().invoke(app, command.split())
    assert shown.exit_code == 0, shown.output
    settings, _, whole = shown.output.partition("| task ")
    assert whole
    lines = [line for line in settings.splitlines() if line.startswith("|")]
    assert lines
    assert [line for line in lines if line not in PAGE] == []


def test_both_tables_are_there() -> None:
    assert len(COMMANDS) == 2


def test_methods_are_listed_with_where_they_act_and_whose_they_are() -> None:
    shown = CliRunner().invoke(app, ["methods"], terminal_width=400).output
    rows = {line.split("|")[1].strip(): line for line in shown.splitlines() if line.startswith("| ")}
    assert set(ae.available_methods()) <= rows.keys()
    for name in set(ae.available_methods()) - {"vanilla", "random", "downsample", "foreground", "other_question"}:
        assert re.search(r"arXiv \d{4}\.\d{5}", ae.get_method(name).source), name
    assert "CC-BY-NC-4.0" in rows["divprune"]
    assert "none" in rows["vtw"]
    assert "in the tower" in rows["tome"]
    assert "attention from text" in rows["adaptinfer"]
