"""Expansion into settings and cells, and the cost on paper that is known before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lmms_tiny import save_tiny_llava
from transformers import AutoConfig, Qwen2Config, SiglipVisionConfig

import adaptinfer_eval as ae
from adaptinfer_eval.backbones import family_of
from adaptinfer_eval.methods.schedule import PERS
from adaptinfer_eval.sweep.cells import Cell, Setting, plan, prompts_planned_for, settings
from adaptinfer_eval.sweep.config import MethodEntry, SweepConfig, SweepError, load_config
from adaptinfer_eval.sweep.shape import model_shape

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


def test_the_mini_sweeps_are_every_method_that_the_small_world_has_place_for() -> None:
    mini, more = config(), load_config("mini_more")
    one, other = ({entry.name for entry in sweep.methods} for sweep in (mini, more))
    assert one & other == {"vanilla"}
    assert one | other == set(ae.available_methods()) - {"cdpruner", "trim", "evs", "vidcom2"}
    swept = [entry for entry in mini.methods if entry.name != "vanilla" and "schedule" not in entry.options]
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
        "merging_layers": 2,
    }


def test_what_only_transformers_knows_is_asked_of_it(tmp_path: Path) -> None:
    """A configuration that leaves out what is not among the defaults known here."""
    text = {"model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": text}))
    assert model_shape(config(f"pretrained={tmp_path}")).num_layers == Qwen2Config().num_hidden_layers


# What an entry says itself, and what it must not -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "in_force", "label"),
    [
        ("fastv", (64, "leaving", "image", None), "fastv-64"),
        ("{name: fastv, count: entering}", (64, "entering", "image", None), "fastv.count=entering-64"),
        ("{name: tome, per: prompt}", (64, "leaving", "prompt", None), "tome.per=prompt-64"),
        ("{name: fastv, budget: 80}", (80, "leaving", "image", None), "fastv.budget=80"),
        ("{name: random, seed: 3}", (64, "leaving", "image", 3), "random.seed=3-64"),
        ("{name: random, budget: 80, seed: 3}", (80, "leaving", "image", 3), "random.budget=80.seed=3"),
        ("{name: fastv, schedule: '1:47'}", (None, None, None, None), "fastv.schedule=1:47"),
        ("vanilla", (None, None, None, None), "vanilla"),
    ],
)
def test_an_entrys_own_options_come_before_the_sweeps_keys(entry: str, in_force: tuple[Any, ...], label: str) -> None:
    (setting,) = settings(config(f"methods=[{entry}]", "budgets=64", "seeds=7"))
    seed = 7 if setting.entry.name == "random" and in_force[3] is None else in_force[3]
    assert (setting.budget, setting.count, setting.per, setting.seed) == (*in_force[:3], seed)
    assert setting.label == label
    method = setting.build()
    for option, value in zip(("budget", "count", "per", "seed"), in_force, strict=True):
        assert value is None or getattr(method, option) == value


def test_the_sweeps_keys_hold_for_an_entry_with_a_budget_of_its_own() -> None:
    (setting,) = settings(config("methods=[{name: fastv, budget: 64}]", "count=entering", "per=prompt"))
    assert (setting.count, setting.per) == ("entering", "prompt")
    assert setting.build() == ae.get_method("fastv")(budget=64, count="entering", per="prompt")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[{name: fastv, count: xx}]", "count='xx'"),
        ("[{name: tome, count: xx}]", "count='xx'"),
        ("[{name: tome, per: sample}]", "per='sample'"),
        ("[{name: fastv, budget: many}]", "budget='many'"),
        ("[{name: fastv, budget: true}]", "budget=True: FastV takes a number"),
        ("[{name: fastv, budget: -1}]", "budget=-1"),
        ("[{name: random, seed: x}]", "seed='x'"),
        ("[{name: random, seeds: 3}]", "no option 'seeds': did you mean 'seed'"),
        ("[{name: fastv, schedule: '1:47', count: leaving}]", "count goes with a budget"),
        ("[{name: fastv, schedule: '1:47', per: image}]", "per goes with a budget"),
        ("[{name: fastv, schedule: '1:47', budget: 64}]", "not both"),
        ("[{name: vanilla, budget: 64}]", "no option 'budget'"),
    ],
)
def test_an_entrys_own_options_are_checked(entries: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        settings(config(f"methods={entries}"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["methods=[fastv, {name: fastv, count: leaving}]"], "fastv-128 and fastv.count=leaving-128 are the same"),
        (["methods=[fastv, {name: fastv, k: 2}]"], "fastv-128 and fastv.k=2-128 are the same"),
        (["methods=[tome, {name: tome, budget: 64.0}]"], "tome.budget=64.0 and tome-64 are the same"),
        (["methods=[random, {name: random, seed: 1}]", "seeds=0,1"], "random-128-s1 and random.seed=1-128 are"),
        (["methods=[{name: fastv, schedule: '1:47'}, {name: fastv, schedule: ' 1:47'}]"], "the same method in two"),
        (["methods=[{name: pdrop, schedule: original}, {name: pdrop, schedule: '7:.5,15:.25,23:.125'}]"], "the same"),
        (["methods=[{name: adaptinfer, layers: '1,9'}, {name: adaptinfer, layers: 1/9}]"], "the same method in two"),
        (["methods=fastv", "budgets=64,64.0"], "budgets names an entry twice"),
        (["methods=fastv", "budgets=64,64.0000001"], "budgets: 64.0 and 64.0000001 are both called fastv-64"),
    ],
)
def test_one_measurement_in_two_spellings_is_refused(changes: list[str], message: str) -> None:
    with pytest.raises(SweepError, match=message):
        settings(config(*changes))


def test_methods_that_differ_in_something_are_no_spellings_of_one() -> None:
    entries = "[fastv, {name: fastv, count: entering}, {name: fastv, per: prompt}, {name: fastv, k: 3}]"
    assert len(settings(config(f"methods={entries}", "budgets=64"))) == 4


# What the model would refuse, before anything is loaded ------------------------------------------------------------


def test_budgets_that_the_checkpoints_tower_cannot_reach_are_told() -> None:
    reachable, out_of_reach = plan(load_config("mini", ["methods=tome", "budgets=64,32"]))
    assert reachable.audit is not None
    assert out_of_reach.audit is None
    assert "choose a budget of at least" in out_of_reach.reason


def test_no_tower_to_merge_in_is_told() -> None:
    shape = "shape={num_layers: 32, hidden_size: 8, intermediate_size: 8, vision_tokens: 576, merging_layers: 0}"
    (planned,) = plan(load_config("mini", ["pretrained=not/here", shape, "methods=tome", "budgets=64"]))
    assert "this model has none" in planned.reason


@pytest.mark.parametrize(
    ("entry", "fits"),
    [
        ("{name: fastv, schedule: '1:577'}", False),
        ("{name: fastv, schedule: '1:576'}", True),
        ("{name: adaptinfer, schedule: '1:133,10:200'}", False),
        ("{name: sparsevlm, schedule: '2:66,6:80'}", True),  # 82 are left after layer 2: merged ones are among them
        ("{name: sparsevlm, schedule: '2:66,6:83'}", False),
        ("{name: pdrop, schedule: '7:288,15:300'}", False),
        ("{name: fastv, schedule: '1:0.2,9:0.5'}", False),
        ("{name: fastv, schedule: '1:0.5,9:0.2'}", True),
        ("{name: adaptinfer, schedule: '1:0,9:0.01'}", False),
        ("{name: adaptinfer, schedule: '1:0,9:0'}", True),
    ],
)
def test_a_stage_keeps_no_more_than_there_are(entry: str, fits: bool) -> None:
    (planned,) = plan(config(f"methods=[{entry}]"))
    assert (planned.audit is not None) is fits
    assert fits or ("are left there" in planned.reason and "images=" in planned.reason)


def test_more_images_have_more_tokens() -> None:
    entry = "{name: fastv, schedule: '1:700'}"
    assert plan(config(f"methods=[{entry}]"))[0].audit is None
    (planned,) = plan(config(f"methods=[{entry}]", "images=2"))
    assert planned.audit is not None
    assert (planned.audit.schedule, planned.audit.images) == ("1:700", 2)


def test_plan_says_what_a_budget_is_for_several_images() -> None:
    per_image, per_prompt = (plan(config("methods=fastv", "budgets=64", "images=2", f"per={per}")) for per in PERS)
    assert [planned.audit.schedule for planned in (*per_image, *per_prompt) if planned.audit] == ["1:94", "1:29"]
    assert "prompts of 2 images of 576 vision tokens each" in prompts_planned_for(config("images=2"))
    assert "per prompt: its images share it" in prompts_planned_for(config("per=prompt"))


@pytest.mark.parametrize(
    ("family", "changes", "tokens"),
    [
        ("llava", {"image_seq_length": 1}, 576),
        ("llava", {"vision_feature_select_strategy": "full"}, 577),
        ("llava", {"vision_config": SiglipVisionConfig(image_size=384, patch_size=14)}, 27 * 27 - 1),
        (
            "llava",
            {
                "vision_config": SiglipVisionConfig(image_size=384, patch_size=14),
                "vision_feature_select_strategy": "full",
            },
            27 * 27,
        ),
        ("internvl", {"image_seq_length": 1}, 256),
        ("internvl", {"downsample_ratio": 0.25}, 64),
    ],
)
def test_vision_tokens_are_what_the_tower_makes(family: str, changes: dict[str, Any], tokens: int) -> None:
    config = AutoConfig.for_model(family, **changes)
    assert family_of(config).image_tokens(config) == tokens


def test_an_absent_checkpoint_needs_a_shape() -> None:
    with pytest.raises(SweepError, match="state its `shape`"):
        plan(config("shape=null"))


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("fastvv", "did you mean 'fastv'"),
        ("[{name: adaptinfer, varient: paper}]", "no option 'varient': did you mean 'variant'"),
        ("[{name: adaptinfer, schedule: '20:3,1:5'}]", "must increase"),
        ("[{name: sparsevlm, priority_heads: true}]", "priority_heads=True: SparseVLM takes a whole number"),
        ("[{name: random, seed: 0.5}]", "seed=0.5: Random takes a whole number"),
        ("[{name: adaptinfer, budget: true}]", "budget=True: AdaptInfer takes a number"),
        ("[{name: adaptinfer, budget: .nan}]", "budget=nan: AdaptInfer takes a number"),
    ],
)
def test_wrong_methods_are_refused_before_anything_is_loaded(methods: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        plan(config(f"methods={methods}"))


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        ("budget=64", "budgets=64"),
        ("count=entering", "count=entering"),
        ("variant=paper", r"methods=\[\{name: adaptinfer, variant: paper\}\]"),
    ],
)
def test_options_of_methods_are_no_arguments_of_the_model(argument: str, remedy: str) -> None:
    with pytest.raises(SweepError, match=f"is an option of methods: give {remedy} instead"):
        settings(config("methods=vanilla,adaptinfer", f"model_args.{argument}"))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (None, "has no config.json: give the folder of a checkpoint"),
        ('{"model_type": "llava", ', r"config\.json is damaged \(.*\): restore it, or download the checkpoint again"),
        (b"\xff\xfe", r"config\.json is damaged"),
        ("[1]", r"config\.json is damaged \(no JSON object\)"),
        ("{}", "is of model_type None: use a checkpoint of llava or llava_next or"),
        (
            '{"model_type": "llava_next"}',
            "is of model_type 'llava_next' and was asked for as llava: use backbone=llava_next",
        ),
        ('{"model_type": ["llava"]}', r"is of model_type \['llava'\]: "),
        (
            '{"model_type": "llava", "text_config": {"model_type": "unheard"}}',
            r"not a model's configuration \(.*unheard",
        ),
        (
            '{"model_type": "llava", "text_config": 3}',
            r"config\.json of \S+ is not a model's configuration .*: download",
        ),
        ('{"model_type": "llava", "text_config": {"model_type": "llama", "hidden_size": true}}', "hidden_size"),
        ('{"model_type": "internvl"}', "'internvl' and was asked for as llava: use backbone=internvl"),
    ],
)
def test_a_checkpoint_that_is_none_says_what_it_is(tmp_path: Path, written: str | bytes | None, message: str) -> None:
    if written is not None:
        (tmp_path / "config.json").write_bytes(written.encode() if isinstance(written, str) else written)
    with pytest.raises(SweepError, match=message):
        plan(config(f"pretrained={tmp_path}"))


def test_a_folder_has_no_revision_and_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoint = save_tiny_llava(tmp_path)
    with pytest.raises(SweepError, match=r"revision=v1 means nothing for the folder .*: leave it out"):
        plan(config(f"pretrained={checkpoint}", "model_args.revision=v1"))
    with pytest.raises(SweepError, match="is a file: give the folder of the checkpoint"):
        plan(config(f"pretrained={checkpoint / 'config.json'}"))


def test_cell_names_are_unique_and_file_names() -> None:
    entry = MethodEntry(name="adaptinfer", options={"schedule": "1:133/10:27"})
    cells = [Cell("llava", Setting(entry), task) for task in ("mini_mme", "mini_gqa")]
    cells.append(Cell("llava", Setting(MethodEntry(name="adaptinfer"), 64.0, "leaving"), "mini_mme"))
    assert len({cell.id for cell in cells}) == len(cells)
    assert all("/" not in cell.id for cell in cells)
