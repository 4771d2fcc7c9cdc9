"""Schedules at the layers found, and the sweep that measures them: solved as everywhere, and run as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adaptinfer_eval.analysis.schedules import Proposal, mean_distribution, propose, sweep_yaml
from adaptinfer_eval.cli import app
from adaptinfer_eval.methods.method import get_method
from adaptinfer_eval.methods.schedule import Schedule, mean_count
from adaptinfer_eval.sweep.cells import plan, settings
from adaptinfer_eval.sweep.config import load_config

LIKE_THE_PAPERS = [0, 300, 0, 0, 0, 0, 0, 0, 0, 0, *([60] * 11), *([0] * 11)]


def proposal(*budgets: float, histogram: list[int] = LIKE_THE_PAPERS) -> Proposal:
    found = propose({"mini_mme": histogram}, budgets, vision_tokens=576)
    assert found is not None
    return found


def yaml_of(found: Proposal, **changes: object) -> str:
    values: dict[str, object] = {
        "pretrained": "tasks/mini/model",
        "backbone": "llava",
        "num_layers": 32,
        "tasks": ["mini_mme", "mini_textvqa"],
        "found": "8 samples of mini_mme",
    }
    return sweep_yaml(found, **(values | changes))  # type: ignore[arg-type]


def test_schedules_meet_their_budgets_at_the_layers_found() -> None:
    found = proposal(128, 64, 48.5)
    assert (found.layers, list(found.schedules), found.unreachable) == ([1, 10, 20], ["128", "64", "48.5"], {})
    for budget, text in found.schedules.items():
        schedule = Schedule.parse(text)
        assert [stage.layer for stage in schedule] == found.layers
        entering = get_method("adaptinfer")(schedule=text).entering(32, 576)
        assert mean_count(entering, "leaving") == pytest.approx(float(budget), abs=0.5)


def test_what_cannot_be_reached_is_said_with_a_schedule_that_can() -> None:
    late = [0, 0, 0, 300, 0, 0, 0, 0, 0, 0, *([60] * 11), *([0] * 11)]
    found = proposal(128, 32, histogram=late)
    assert (found.layers, list(found.schedules)) == ([3, 10, 20], ["128"])
    assert "schedule='" in found.unreachable["32"]


def test_tasks_count_alike_and_those_without_a_shift_not_at_all() -> None:
    shares = mean_distribution({"long": [0, 900, 100], "short": [10, 0, 0], "none": [0, 0, 0]})
    assert shares == pytest.approx([0.5, 0.45, 0.05])
    assert not mean_distribution({"none": [0, 0]}).any()
    assert propose({"mini_mme": [5] * 32}, [64], vision_tokens=576) is None


def test_a_proposal_is_json() -> None:
    written = json.loads(json.dumps(proposal(64).to_json()))
    assert Schedule.parse(written["schedules"]["64"])
    assert written["layers"] == [1, 10, 20]


def test_the_sweep_runs_as_it_is(tmp_path: Path) -> None:
    found = Proposal([2, 9, 17], {"128": "", "48.5": ""}, {"8": "too\nfew"})
    path = tmp_path / "proposed.yaml"
    path.write_text(yaml_of(found, model_args={"conv": "hf"}), encoding="utf-8")
    assert path.read_text(encoding="utf-8").splitlines()[3] == "# Not at 8: too few"
    config = load_config(str(path))
    assert (config.name, config.budgets, config.model_args) == ("proposed", (128, 48.5), {"conv": "hf"})
    here = "adaptinfer.layers=2,9,17"
    labels = ["vanilla", "adaptinfer-128", "adaptinfer-48.5", f"{here}-128", f"{here}-48.5"]
    assert [setting.label for setting in settings(config)] == labels
    assert all(planned.audit for planned in plan(config))
    shown = CliRunner().invoke(app, ["plan", str(path)])
    assert (shown.exit_code, "2:" in shown.output) == (0, True)


def test_layers_that_are_the_methods_own_are_measured_once() -> None:
    assert yaml_of(proposal(64)).count("adaptinfer") == 1


def test_a_sweep_without_a_budget_that_can_be_reached_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        yaml_of(Proposal([2, 9, 17], {}, {"8": "too few"}))
