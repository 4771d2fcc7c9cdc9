"""Expansion into settings and cells, and the cost on paper that is known before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lmms_tiny import save_tiny_llava
from transformers import Qwen2Config

import adaptinfer_eval as ae
from adaptinfer_eval.sweep.cells import Cell, Setting, model_shape, plan, settings
from adaptinfer_eval.sweep.config import MethodEntry, SweepConfig, SweepError, load_config

LLAVA_7B = "{num_layers: 32, hidden_size: 4096, intermediate_size: 11008, vision_tokens: 576}"

# (entering, leaving, TFLOPs) of LLaVA-1.5-7B with 66 text tokens; the methods' own schedules, counted by hand.
KNOWN = {
    ("vanilla", None): (576.0, 576.0, 4.2656),
    ("adaptinfer", 128): (146.25, 128.81, 1.3928),
    ("adaptinfer", 64): (82.88, 64.97, 0.9749),
    ("adaptinfer", 48): (66.69, 48.75, 0.8687),
    ("adaptinfer", 32): (51.00, 33.00, 0.7662),
    ("sparsevlm", 128): (145.41, 128.62, 1.3878),
    ("sparsevlm", 64): (82.25, 64.81, 0.9725),
    ("pdrop", 128): (144.19, None, 1.3776),
    ("pdrop", 64): (81.69, None, 0.9672),
    ("pdrop", 48): (65.69, None, 0.8624),
    ("pdrop", 32): (49.94, None, 0.7593),
    ("fastv", 128): (None, None, 1.367),
    ("fastv", 64): (None, None, 0.956),
    ("tome", 64): (64.0, 64.0, 0.8463),
    ("tome", 32): (32.0, 32.0, 0.6372),
}


def config(*overrides: str) -> SweepConfig:
    return load_config("mini", ["pretrained=not/here", f"shape={LLAVA_7B}", *overrides])


def test_vanilla_once_then_every_method_with_every_budget() -> None:
    labels = [setting.label for setting in settings(config("methods=fastv,vanilla,tome", "budgets=64,32"))]
    assert labels == ["vanilla", "fastv-64", "fastv-32", "tome-64", "tome-32"]


def test_an_explicit_schedule_takes_no_budget() -> None:
    (planned,) = plan(config("methods=[{name: adaptinfer, schedule: '1:133,10:27,20:3'}]"))
    assert planned.setting.budget is None
    assert planned.audit is not None
    assert planned.audit.schedule == "1:133,10:27,20:3"


def test_mini_is_every_installed_method_over_four_budgets() -> None:
    mini = config()
    assert {entry.name for entry in mini.methods} == set(ae.available_methods())
    swept = [entry for entry in mini.methods if entry.name != "vanilla" and "schedule" not in entry.options]
    assert {entry.name for entry in swept} == set(ae.available_methods()) - {"vanilla"}
    assert sum(setting.budget is not None for setting in settings(mini)) == 4 * len(swept)


def test_plan_has_the_known_costs() -> None:
    found = {
        (planned.setting.entry.name, planned.setting.budget): planned.audit
        for planned in plan(config("methods=vanilla,adaptinfer,sparsevlm,pdrop,fastv,tome", "budgets=128,64,48,32"))
    }
    for key, (entering, leaving, tflops) in KNOWN.items():
        audit = found[key]
        assert audit is not None, key
        assert audit.macs / 1e12 == pytest.approx(tflops, abs=6e-4), key
        assert entering is None or audit.entering == pytest.approx(entering, abs=6e-3), key
        assert leaving is None or audit.leaving == pytest.approx(leaving, abs=6e-3), key


def test_relative_cost_is_of_the_unpruned_prompt() -> None:
    vanilla, pruned = plan(config("methods=vanilla,adaptinfer", "budgets=64"))
    assert vanilla.relative_cost == pytest.approx(1.0)
    assert pruned.relative_cost == pytest.approx(0.9749 / 4.2656, abs=1e-4)


def test_budgets_out_of_reach_come_with_the_reason() -> None:
    reachable, out_of_reach = plan(config("methods=fastv", "budgets=64,32", "count=entering"))
    assert reachable.audit is not None
    assert out_of_reach.audit is None
    assert "36" in out_of_reach.reason


def test_the_shape_is_the_checkpoints_own_where_it_is_here(tmp_path: Path) -> None:
    shape = model_shape(config(f"pretrained={save_tiny_llava(tmp_path)}"))
    assert shape.model_dump() == {
        "num_layers": 4,
        "hidden_size": 64,
        "intermediate_size": 96,
        "vision_tokens": 36,
    }


@pytest.mark.parametrize("text", ["{", "[]", '{"text_config": 3}'])
def test_a_damaged_configuration_is_no_absent_checkpoint(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SweepError, match=r"config\.json is not a model's configuration .*: download"):
        model_shape(config(f"pretrained={tmp_path}"))


def test_what_only_transformers_knows_is_asked_of_it(tmp_path: Path) -> None:
    """A configuration that leaves out what is not among the defaults known here."""
    text = {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": text}))
    assert model_shape(config(f"pretrained={tmp_path}")).num_layers == Qwen2Config().num_hidden_layers


def test_an_absent_checkpoint_needs_a_shape() -> None:
    with pytest.raises(SweepError, match="state its `shape`"):
        plan(config("shape=null"))


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("fastvv", "did you mean 'fastv'"),
        ("[{name: adaptinfer, varient: paper}]", "no option 'varient': did you mean 'variant'"),
        ("[{name: adaptinfer, schedule: '20:3,1:5'}]", "must increase"),
    ],
)
def test_wrong_methods_are_refused_before_anything_is_loaded(methods: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        plan(config(f"methods={methods}"))


def test_cell_names_are_unique_and_file_names() -> None:
    entry = MethodEntry(name="adaptinfer", options={"schedule": "1:133/10:27"})
    cells = [Cell("llava", Setting(entry), task) for task in ("mini_mme", "mini_gqa")]
    cells.append(Cell("llava", Setting(MethodEntry(name="adaptinfer"), 64.0, "leaving"), "mini_mme"))
    assert len({cell.id for cell in cells}) == len(cells)
    assert all("/" not in cell.id for cell in cells)
