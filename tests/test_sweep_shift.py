"""`shift=…`: AdaptInfer at the layers that a shift.json proposes is one more method, once, and of this model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adaptinfer_eval.cli import app
from adaptinfer_eval.sweep.cells import plan, settings
from adaptinfer_eval.sweep.config import SweepConfig, SweepError, load_config


def write(folder: Path, layers: object = (1, 9, 17), num_layers: object = 32, **changes: object) -> Path:
    """A shift.json with what a sweep reads of it."""
    proposed = {"layers": layers, "schedules": {"128": "1:1,9:1,17:1"}} if layers else None
    path = folder / "shift.json"
    path.write_text(json.dumps({"layers": num_layers, "samples": 8, "proposed": proposed} | changes), encoding="utf-8")
    return path


def labels(config: SweepConfig) -> list[str]:
    return [setting.label for setting in settings(config)]


def test_the_layers_found_are_one_more_method_at_the_same_budget(tmp_path: Path) -> None:
    before = load_config("table5")
    after = load_config("table5", [f"shift={write(tmp_path)}"])
    assert set(labels(after)) - set(labels(before)) == {"adaptinfer.layers=1,9,17-128"}
    assert after.model_dump(exclude={"methods", "shift"}) == before.model_dump(exclude={"methods", "shift"})
    assert all(planned.audit for planned in plan(after))


def test_the_saved_configuration_runs_again_without_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    config = load_config("table5", [f"shift={path}"])
    saved = tmp_path / "config.yaml"
    saved.write_text(config.dump(), encoding="utf-8")
    path.unlink()
    assert load_config(str(saved)) == config
    assert labels(load_config(str(saved), ["shift=null"])) == labels(config)


@pytest.mark.parametrize(("layers", "num_layers"), [([2, 12, 22], 32), ([1, 10, 20], 32), ([1, 11, 22], 40)])
def test_layers_that_are_measured_already_are_not_measured_twice(
    tmp_path: Path, layers: list[int], num_layers: int
) -> None:
    config = load_config("table5", [f"shift={write(tmp_path, layers, num_layers)}"])
    assert labels(config) == labels(load_config("table5"))


def test_the_same_layers_under_another_option_are_another_method(tmp_path: Path) -> None:
    overrides = ["methods=[vanilla, {name: adaptinfer, variant: paper}]", f"shift={write(tmp_path, [1, 10, 20])}"]
    found = labels(load_config("table5", overrides))
    assert found == ["vanilla", "adaptinfer.variant=paper-128", "adaptinfer.layers=1,10,20-128"]


def test_a_model_of_another_depth_is_refused(tmp_path: Path) -> None:
    config = load_config("table5", [f"shift={write(tmp_path, [1, 11, 21], 40)}"])
    with pytest.raises(
        SweepError, match=r"of a model with 40 layers, and llava-hf/llava-1\.5-7b-hf has 32: find its own"
    ):
        plan(config)


def test_a_file_that_is_not_there_or_proposes_nothing_is_refused(tmp_path: Path) -> None:
    missing = CliRunner().invoke(app, ["plan", "table5", f"shift={tmp_path}"])
    assert isinstance(missing.exception, SweepError)
    assert f"there is no file {tmp_path}: write it with `adaptinfer-eval shift`" in str(missing.exception)
    with pytest.raises(SweepError, match=r"proposes no layers, .*: leave shift out, or choose layers yourself"):
        load_config("table5", [f"shift={write(tmp_path, None)}"])


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [1, 10, 31]},
        {"layers": [10, 1]},
        {"layers": [-1, 10]},
        {"layers": ["1"]},
        {"layers": 7},
        {"num_layers": "32"},
        {"num_layers": None},
        {"proposed": [1, 10, 20]},
        {"proposed": {"schedules": {}}},
    ],
)
def test_a_file_with_other_content_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(SweepError, match=r"shift\.json is not what `adaptinfer-eval shift` writes: write it again"):
        load_config("table5", [f"shift={write(tmp_path, **changes)}"])


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"layers": 32', b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "shift.json"
    path.write_bytes(content)
    with pytest.raises(SweepError, match=r"shift\.json is not what `adaptinfer-eval shift` writes"):
        load_config("table5", [f"shift={path}"])


@pytest.mark.parametrize("value", ["3", "[1, 10, 20]", "{layers: '1,10,20'}"])
def test_what_is_no_path_is_refused(value: str) -> None:
    with pytest.raises(SweepError, match=r"table5\.yaml: shift"):
        load_config("table5", [f"shift={value}"])
