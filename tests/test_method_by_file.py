"""A method named by file runs wherever a registered one does, and is the file as it is now."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from lmms_tiny import load_wrapper, save_tiny_llava
from rich.console import Console
from typer.testing import CliRunner

import adaptinfer_eval as ae
from adaptinfer_eval.cli import app
from adaptinfer_eval.demo.answers import choices
from adaptinfer_eval.sweep.cells import settings
from adaptinfer_eval.sweep.config import SweepError, load_config
from adaptinfer_eval.sweep.identity import code_digest
from adaptinfer_eval.sweep.records import read_records
from adaptinfer_eval.sweep.run import run_sweep

MINE = """
from dataclasses import dataclass
from typing import ClassVar

import adaptinfer_eval as ae


@dataclass(frozen=True, kw_only=True)
class Mine(ae.LayerMethod):
    '''What the text looks at.'''

    power: float = 1.0
    official: ClassVar = {32: {64: "1:133,10:27,20:3"}}

    def score(self, attention):
        return attention.to_vision.mean(1).pow(self.power).sum(1)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, in a folder of the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "methods" / "mine.py"
    path.parent.mkdir()
    path.write_text(MINE)
    return path


def test_the_class_is_the_file_as_it_is_now(mine: Path) -> None:
    first = ae.get_method("methods/mine.py:Mine")
    assert first(budget=64, power=2).power == 2
    assert ae.get_method(f"{mine}:Mine") is first
    mine.write_text(MINE.replace("1.0", "3.0"))
    assert ae.get_method("methods/mine.py:Mine")(budget=64).power == 3
    assert first(budget=64).power == 1


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("methods/min.py:Mine", MINE, "there is no file .*methods/min.py"),
        ("methods/mine.py:Mime", MINE, "no class 'Mime': did you mean 'Mine'?"),
        ("methods/mine.py:Mine", "Mine = 3", "Mine is no method"),
        ("methods/mine.py:Mine", "", "no class 'Mine': write one"),
        ("methods/mine.py:Mine", MINE.replace("def score", "def scores"), r"Mine has no score\(\)"),
        (
            "methods/mine.py:Mine",
            MINE.replace("adaptinfer_eval", "nothing_such"),
            "line 5 .*ModuleNotFoundError",
        ),
        ("methods/mine.py:Mine", MINE + "\ndef (", r"line 18 of mine.py .*SyntaxError"),
        ("methods/mine.py:Mine", MINE.replace("frozen=True, ", ""), "line [89] of mine.py .*non-frozen"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(mine: Path, name: str, text: str, said: str) -> None:
    mine.write_text(text)
    with pytest.raises(ValueError, match=said):
        ae.get_method(name)
    with pytest.raises(SweepError, match=said):
        settings(load_config("mini", [f"methods={name}"]))


def test_lmms_eval_takes_it_under_every_model(mine: Path) -> None:
    checkpoint = save_tiny_llava(mine.parent / "tiny")
    model = load_wrapper(checkpoint, "llava", "vanilla", ",method=methods/mine.py:Mine,schedule=0:20/2:5,power=2")
    assert model.method == ae.get_method(f"{mine}:Mine")(schedule="0:20,2:5", power=2)
    assert load_wrapper(checkpoint, "llava", "fastv", ",method=tome,budget=18").method.name == "ToMe"
    described = repr(model)  # what lmms-eval's cache of answers goes by
    mine.write_text(MINE.replace("sum(1)", "amax(1)"))
    model = load_wrapper(checkpoint, "llava", "vanilla", ",method=methods/mine.py:Mine,schedule=0:20/2:5,power=2")
    assert repr(model) != described
    with pytest.raises(ValueError, match="unknown model argument 'powers': did you mean 'power'"):
        load_wrapper(checkpoint, "llava", "vanilla", ",method=methods/mine.py:Mine,budget=9,powers=2")


def test_a_sweep_calls_it_by_its_class_and_knows_the_file(mine: Path, tmp_path: Path) -> None:
    config = load_config("mini", ["methods=[vanilla, {name: methods/mine.py:Mine, power: 2}]", "budgets=64"])
    assert [setting.label for setting in settings(config)] == ["vanilla", "Mine.power=2-64"]
    before = code_digest("methods/mine.py:Mine")
    mine.write_text(MINE + "\n")
    assert code_digest("methods/mine.py:Mine") != before
    (tmp_path / "other.py").write_text(MINE)
    with pytest.raises(SweepError, match="names an entry twice"):
        load_config("mini", ["methods=methods/mine.py:Mine,other.py:Mine"])
    (tmp_path / "other.py").write_text(MINE.replace("Mine", "fastv"))
    with pytest.raises(SweepError, match="fastv is the name of an installed method"):
        load_config("mini", ["methods=other.py:fastv"])


def test_workers_load_it_and_a_changed_file_never_resumes(mine: Path, tmp_path: Path) -> None:
    run = ["methods=methods/mine.py:Mine", "budgets=64", "tasks=mini_mme", "limit=2", "pool=processes", "workers=1"]
    config = load_config("mini", [*run, f"output={tmp_path / 'runs'}"])
    assert run_sweep(config, Console(file=io.StringIO())) == []
    (record,) = read_records(tmp_path / "runs")
    assert (record["method"], record["status"], record["code"]) == ("Mine", "done", code_digest(f"{mine}:Mine"))
    mine.write_text(MINE + "\n")
    with pytest.raises(SweepError, match="code was"):
        run_sweep(config, Console(file=io.StringIO()))


def test_commands_show_it(mine: Path) -> None:
    shown = CliRunner().invoke(app, ["methods", "methods/mine.py:Mine"])
    assert "What the text looks at." in shown.output
    assert "power=1.0" in shown.output
    wrong = CliRunner().invoke(app, ["methods", "methods/mine.py:Mime"])
    assert "did you mean 'Mine'" in str(wrong.exception)
    assert ("Mine", "methods/mine.py:Mine") in choices(["methods/mine.py:Mine"])
