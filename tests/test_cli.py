"""The command line: what it prints, and that its exit code is 0 only when all went well."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lmms_tiny import save_tiny_llava
from shell import call, default_interrupt
from sweep_folder import good, write_sweep

import adaptinfer_eval as ae
from adaptinfer_eval.cli import main

LLAVA_7B = "{num_layers: 32, hidden_size: 4096, intermediate_size: 11008, vision_tokens: 576}"


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
        (("plan", "mini", "methods=[vanilla"), "methods=[vanilla is not YAML"),
        (("plan", "mini", "tasks=mini_mme,mini_gqqa"), "unknown task 'mini_gqqa': did you mean 'mini_gqa'"),
        (("plan", "mini", "limit=3"), "limit=3: mini_mme is scored in pairs of questions, use an even limit"),
        (("plan", "mini", "tasks=mini_mme,vqav2_test"), "vqav2_test has no score, only answers for a server"),
        (("plan", "mini", "tasks=seedbench_ppl"), "seedbench_ppl asks for multiple_choice; a sweep takes generated"),
        (("plan", "[/x]"), "no configuration '[/x]'"),
        (("[/x]",), "[/x]"),
        (("plan", "mini", "tasks=adaptinfer_mini"), "adaptinfer_mini is a group; list its tasks"),
        (("plan", "mini", "tasks=mini_mme,adaptinfer_mme"), "two tasks stand for MME (mini_mme, adaptinfer_mme)"),
        (("table", "6"), "no table '6': there are 1, 2, 4, 5, a6, cdpruner:1, "),
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


def test_what_is_wrong_beforehand_is_refused_before_anything_is_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "run", "mini", "tasks=mini_mme,adaptinfer_mme") == 1
    assert "(mini_mme, adaptinfer_mme): run them in sweeps of their own" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
    assert call(monkeypatch, "run", "mini", "methods=fastv,adaptinferr") == 1
    assert not any(tmp_path.iterdir())


def one_line(text: str) -> str:
    """The only line of an error."""
    (line,) = text.splitlines()
    return line


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("file", "file: File exists: a file stands where a folder has to be"),
        ("file/under/it", "Not a directory: a file stands where a folder has to be"),
        ("n" * 300, "File name too long: choose a shorter name"),
        ("/proc/none/out", "/proc/none/out: No such file or directory: choose a folder in which files can be made"),
        ("taken", "taken/lock: Is a directory: that is a folder"),
        ("logged", "logged/log.txt: Is a directory: that is a folder"),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, output: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("taken/lock").mkdir(parents=True)
    Path("logged/log.txt").mkdir(parents=True)
    assert call(monkeypatch, "run", "mini", f"output={output}") == 1
    assert message in one_line(capsys.readouterr().err)
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("folder", "folder is a folder: name the files to write, as in folder/figure"),
        ("taken", "taken.png: Is a directory: that is a folder; name a file"),
        ("full", "full.png: No space left on device: free some space"),
        ("file/under", "file/under.png: File exists: a file stands where a folder has to be"),
    ],
)
def test_a_figure_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, output: str, message: str
) -> None:
    write_sweep(tmp_path / "sweep", good())
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    Path("taken.png").mkdir()
    Path("full.png").symlink_to("/dev/full")
    assert call(monkeypatch, "figure", "5", "--results", "sweep", "--output", output) == 1
    assert message in one_line(capsys.readouterr().err)


def test_a_folder_with_foreign_files_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = write_sweep(tmp_path / "sweep", good())
    (folder / "cells" / "notes.json").write_text("[1, 2]")
    assert call(monkeypatch, "table", "4", "--results", folder) == 1
    assert "notes.json is not the record that its name says: move it out" in one_line(capsys.readouterr().err)


def test_errors_that_are_of_no_file_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("adaptinfer_eval.sweep.records.read_records", refused)
    monkeypatch.setattr(sys, "argv", ["adaptinfer-eval", "table", "4", "--results", "x"])
    with pytest.raises(ConnectionRefusedError):
        main()


def test_plan_knows_upstreams_own_tasks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "plan", "mini", "tasks=mini_mme,gqa", "limit=2") == 0
    assert "x 2 tasks" in capsys.readouterr().out


def test_where_nothing_can_run_the_reasons_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """ToMe's is the vision tower's own, of which a plan knows nothing."""
    where = (f"pretrained={save_tiny_llava(tmp_path / 'model')}", f"output={tmp_path / 'out'}", "workers=1")
    assert (
        call(monkeypatch, "run", "mini", "methods=tome", "budgets=2", "tasks=mini_gqa,mini_mme", "limit=2", *where) == 1
    )
    errors = capsys.readouterr().err.splitlines()
    told = [line for line in errors if line.startswith("cannot run: llava-tome-2-mini_")]
    assert [line.partition("mini_")[2].partition(": ")[2] for line in told] == [
        "budget=2: 2 layers that merge half of their tokens leave 9 of 36: choose a budget of at least 9"
    ]
    assert errors[-1].startswith("the model can run none of the cells")


def test_tasks_of_lmms_eval_are_indexed_without_a_word() -> None:
    command = [sys.executable, "-m", "adaptinfer_eval.cli", "plan", "mini", "tasks=mini_nope"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr.startswith("adaptinfer-eval: tasks: unknown task 'mini_nope'")


def test_ctrl_c_says_that_the_sweep_can_go_on(tmp_path: Path) -> None:
    checkpoint = save_tiny_llava(tmp_path / "model")
    small = ("methods=vanilla,fastv", "budgets=20", "tasks=mini_mme", "batch_size=1", "workers=1", "limit=200")
    command = [sys.executable, "-m", "adaptinfer_eval.cli", "run", "mini", *small]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    where = (f"pretrained={checkpoint}", f"output={tmp_path / 'out'}")
    process = subprocess.Popen(
        [*command, *where],
        env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_interrupt,
    )
    while not list(tmp_path.glob("out/journal/*.jsonl")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    # Where the interrupt passes through text that is executed, Python ends by the signal itself: 130 to shells, too.
    assert process.returncode in (130, -signal.SIGINT), errors
    assert errors.rstrip().splitlines()[-1] == "stopped: the same command goes on where this one stopped"
    assert "Traceback" not in errors
    if "GOMP_SPINCOUNT" in errors:  # said by libgomp when it is loaded, which is what torch has on Linux
        assert "GOMP_SPINCOUNT = '0'" in errors


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

    def breaks(*_: object) -> None:
        raise RuntimeError("cannot go on")

    monkeypatch.setattr(ae.get_method("fastv"), "score", breaks)
    assert call(monkeypatch, "run", "mini", *small, where[0], f"output={tmp_path / 'failed'}", "limit=2") == 1
    assert "failed: llava-fastv-20-mini_mme: " in capsys.readouterr().err
