"""The doctor finds nothing where all is well, and what was broken on purpose where not; it never raises."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from findings import ONE_TASK, found, mini
from rich.console import Console
from shell import call
from torch import Tensor

import adaptinfer_eval as ae
import adaptinfer_eval.doctor.worker
from adaptinfer_eval.adaptinfer import AdaptInfer
from adaptinfer_eval.doctor import examine, tiny
from adaptinfer_eval.doctor.finding import Finding, found_by
from adaptinfer_eval.doctor.machine import accelerator, disk, flash_attention, memory
from adaptinfer_eval.doctor.methods import STORED, methods
from adaptinfer_eval.doctor.show import show
from adaptinfer_eval.doctor.versions import imports, versions
from adaptinfer_eval.methods import method as method_module
from adaptinfer_eval.methods.method import GROUP


def test_a_machine_on_which_all_is_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert call(monkeypatch, "doctor", "mini", ONE_TASK) == 0
    lines = capsys.readouterr().out.splitlines()
    # A machine may be short of disk or memory, and transformers newer than any release that was tested.
    assert [line for line in lines[:-1] if line.startswith("fails")] == []
    text = "\n".join(lines)
    for name in ("versions", "accelerator", "flash attention", "disk", "checkpoint", "memory", "worker"):
        assert f" s  {name} " in text
    for task in ("data mini_gqa", "scoring mini_gqa"):
        assert f" s  {task} " in text
    for name in ae.available_methods():
        assert f"method {name} " in text
    assert lines[-1].startswith(("a sweep works here (", "a sweep should work here ("))
    assert list(tmp_path.glob("adaptinfer-eval-doctor-*")) == []


def test_every_shipped_method_is_stored() -> None:
    own = {entry.name for entry in metadata.entry_points(group=GROUP) if "adaptinfer_eval." in entry.value}
    assert set(json.loads(STORED.read_text(encoding="utf-8"))) == own


def test_a_release_that_was_not_tested_and_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def other(name: str) -> str:
        if name == "tabulate":
            raise metadata.PackageNotFoundError(name)
        return "4.57.0" if name == "transformers" else version(name)

    monkeypatch.setattr(metadata, "version", other)
    (finding,) = versions()
    assert finding.verdict == "fails"
    assert "transformers 4.57.0 is outside" in finding.text
    assert "tabulate is not installed" in finding.text
    assert finding.remedy.startswith("pip install '")
    assert "'transformers" in finding.remedy
    assert "torch" not in finding.remedy  # which is as tested


def test_an_import_that_fails_is_a_line_and_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setitem(sys.modules, "lmms_eval.evaluator", None)
    assert call(monkeypatch, "doctor", "mini") == 1
    shown = capsys.readouterr().out
    assert "imports                           ModuleNotFoundError: " in shown
    assert "a sweep would not work here: 1 of" in shown
    (log,) = tmp_path.glob("adaptinfer-eval-doctor-*/log.txt")
    assert "Traceback" in log.read_text(encoding="utf-8")
    assert str(log) in shown


def test_a_release_within_the_ranges_that_is_newer_than_any_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "99.1.0")
    (finding,) = imports()
    assert finding.verdict == "warning"
    assert "99.1.0 is newer than" in finding.text


def test_a_check_that_crashes_is_a_line_with_its_reason() -> None:
    def breaks() -> Iterator[Finding]:
        yield Finding("first", "ok", "well")
        raise OSError(5, "Input/output error")

    first, second = found_by("second", breaks)
    assert first.verdict == "ok"
    assert (second.name, second.verdict) == ("second", "fails")
    assert second.text == "OSError: [Errno 5] Input/output error"
    assert second.remedy


def test_warnings_alone_do_not_fail() -> None:
    console = Console(record=True, width=200)
    assert show([Finding("a", "ok", "well"), Finding("b", "warning", "odd [/x]", "look")], console)
    assert "odd [/x]" in console.export_text()


# Methods -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`only(name=value, …)`: those entry points, and vanilla, are all the methods that are installed."""
    vanilla = next(entry for entry in metadata.entry_points(group=GROUP) if entry.name == "vanilla")

    def install(**values: str) -> None:
        entries = [vanilla, *(EntryPoint(name, value, GROUP) for name, value in values.items())]
        monkeypatch.setattr("adaptinfer_eval.methods.method.entry_points", lambda group: entries)
        monkeypatch.setattr(method_module, "_load", method_module._load.__wrapped__)  # which remembers others

    return install


@dataclass(frozen=True, kw_only=True)
class Reversed(AdaptInfer):
    """Keeps what AdaptInfer drops."""

    def score(self, attention: ae.Attention) -> Tensor:
        return -super().score(attention)


@dataclass(frozen=True, kw_only=True)
class OfBatch(AdaptInfer):
    """Ranks by AdaptInfer's score in the first prompt of a batch, whoever asks."""

    def score(self, attention: ae.Attention) -> Tensor:
        scores = super().score(attention)
        return scores[:1].expand_as(scores)


@dataclass(frozen=True, kw_only=True)
class Raises(AdaptInfer):
    def score(self, attention: ae.Attention) -> Tensor:
        raise ArithmeticError("no score today")


@dataclass(frozen=True, kw_only=True)
class Demanding(AdaptInfer):
    taste: str


def test_methods_that_are_wrong_and_methods_of_others(only: Any, tmp_path: Path) -> None:
    only(
        adaptinfer=f"{__name__}:Reversed",
        mine="adaptinfer_eval.adaptinfer:AdaptInfer",
        of_batch=f"{__name__}:OfBatch",
        raises=f"{__name__}:Raises",
        demanding=f"{__name__}:Demanding",
        gone="nowhere_at_all:Method",
    )
    lines = found(methods(tmp_path))
    assert lines.pop("method vanilla").verdict == "ok"
    verdicts = {name.removeprefix("method "): finding.verdict for name, finding in lines.items()}
    assert verdicts == {
        "adaptinfer": "fails",
        "mine": "ok",
        "of_batch": "fails",
        "raises": "fails",
        "demanding": "warning",
        "gone": "fails",
    }
    assert "is not as stored: 100.0% of the kept tokens are others" in lines["method adaptinfer"].text
    assert "not shipped here, so nothing is stored" in lines["method mine"].text
    assert "batched is not as one by one" in lines["method of_batch"].text
    assert "ArithmeticError: no score today" in lines["method raises"].text
    assert "no default for taste" in lines["method demanding"].text
    assert "ModuleNotFoundError" in lines["method gone"].text
    assert all(finding.remedy for finding in lines.values() if finding.verdict != "ok")


def test_a_method_that_prunes_nothing_is_found(only: Any, tmp_path: Path) -> None:
    only(adaptinfer="adaptinfer_eval.baselines.vanilla:Vanilla")
    line = found(methods(tmp_path))["method adaptinfer"]
    assert line.verdict == "fails"
    assert "is not as stored: 100.0%" in line.text


# The machine ---------------------------------------------------------------------------------------------------------


def test_weights_that_do_not_fit() -> None:
    config = mini("workers=2")
    (fits,), (does_not,) = memory(config, 1e6), memory(config, 1e15)
    assert (fits.verdict, does_not.verdict) == ("ok", "fails")
    assert "2 workers" in does_not.text
    assert "workers=" in does_not.remedy


def test_where_results_cannot_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = mini(f"output={tmp_path / 'new' / 'folder'}")
    assert found(disk(config))["disk"].verdict == "ok"
    for free, verdict in ((2e8, "warning"), (1e6, "fails")):
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(1, 1, int(free)))
            assert found(disk(config))["disk"].verdict == verdict
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)
        assert "cannot be written to" in found(disk(config))["disk"].text


def test_flash_attention_that_is_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_flash_attn_2_available", lambda: False)
    (finding,) = flash_attention(mini("model_args.attn_implementation=flash_attention_2"))
    assert finding.verdict == "fails"
    assert "[flash]" in finding.remedy


def test_gpus_that_torch_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = tmp_path / "nvidia-smi"
    listing.write_text("#!/bin/sh\necho 'GPU 0: A Card (UUID: GPU-1)'\n")
    listing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda check_available: None)
    (finding,) = accelerator(mini())
    assert finding.verdict == "warning"
    assert "does not see GPU 0: A Card" in finding.text


def test_a_worker_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptinfer_eval.doctor.worker, "SECONDS", 0.0)
    monkeypatch.setattr(adaptinfer_eval.doctor.worker, "SLOWER", 0)
    worker = adaptinfer_eval.doctor.worker.StartedWorker(tmp_path)
    list(worker.start())
    (finding,) = worker.stop()
    assert finding.verdict == "fails"
    assert "was not ready after" in finding.text


def test_the_command_fails_where_a_check_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Here the checkpoint is, and the worker, which finds other code than it was told of."""
    made = tiny.tiny_sweep

    def older(*arguments: Any) -> Any:
        config, sources = made(*arguments)
        return config, replace(sources, engine="older")

    monkeypatch.setattr(tiny, "tiny_sweep", older)
    monkeypatch.setattr("adaptinfer_eval.doctor.methods.methods", lambda *_: iter(()))  # looked at above
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert call(monkeypatch, "doctor", "mini", ONE_TASK, f"pretrained={tmp_path}") == 1
    shown = capsys.readouterr().out
    assert "lacks config.json" in shown
    assert "a worker would measure something else (engine was 'older'" in shown
    assert "a sweep would not work here" in shown
    assert "scoring mini_gqa" in shown  # the other lines are there
    assert call(monkeypatch, "doctor", "minni") == 1
    assert "did you mean 'mini'" in capsys.readouterr().err
    assert next(examine(mini())).name == "versions"
