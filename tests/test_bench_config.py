"""What a benchmark may be asked for, and what it says when it may not."""

from __future__ import annotations

import pytest

from adaptinfer_eval.bench.config import bench_config
from adaptinfer_eval.bench.shapes import build, family_at_hand
from adaptinfer_eval.sweep.cells import settings
from adaptinfer_eval.sweep.config import SweepError


def test_command_line() -> None:
    config = bench_config(None, "tiny", ["methods=vanilla,{name: sparsevlm}", "budgets=64,32", "attention=sdpa"])
    assert [entry.name for entry in config.methods] == ["vanilla", "sparsevlm"]
    assert (config.budgets, config.batch_sizes, config.attention) == ((64, 32), (1, 8, 16), ("sdpa",))
    assert config.folder == "results/runs/bench-tiny"
    assert bench_config("org/model", None, ["methods=vanilla"]).folder == "results/runs/bench-org_model"
    assert bench_config("org/model", None, ["output=here"]).folder == "here"
    options = bench_config(None, "tiny", ["methods=[vanilla, {name: sparsevlm, variant: plus}]"]).methods[1].options
    assert options == {"variant": "plus"}


def test_an_entrys_own_options_come_before_the_keys() -> None:
    methods = "methods=[vanilla, {name: fastv, count: entering}, {name: tome, budget: 32}]"
    found = [(s.label, s.budget, s.count) for s in settings(bench_config(None, "tiny", [methods]))]
    entering = ("fastv.count=entering-64", 64, "entering")
    assert found == [("vanilla", None, None), ("tome.budget=32", 32, "leaving"), entering]
    with pytest.raises(SweepError, match="count='xx'"):
        settings(bench_config(None, "tiny", ["methods=[vanilla, {name: fastv, count: xx}]"]))


@pytest.mark.parametrize(
    ("pretrained", "shape", "override", "message"),
    [
        (None, None, "runs=3", "either --pretrained CHECKPOINT or --shape"),
        ("model", "tiny", "runs=3", "either --pretrained CHECKPOINT or --shape"),
        (None, "llava-1.5-70b", "runs=3", "did you mean 'llava-1.5-7b'"),
        (None, "tiny", "batchsizes=3", "did you mean 'batch_sizes'"),
        (None, "tiny", "methods=fastv", "name it too"),
        (None, "tiny", "text_tokens=35", "at least 36"),
        (None, "tiny", "batch_sizes=2,2", "names an entry twice"),
        (None, "tiny", "new_tokens=1", "greater than or equal to 2"),
        (None, "tiny", "runs", "not of the form key=value"),
        (None, "tiny", "runs=true", "runs: .*valid integer, not True"),
        (None, "tiny", "budgets=64,true", "budgets.1: .*valid number, not True"),
        (None, "tiny", "text_tokens=40.5", "text_tokens.0: .*valid integer"),
        (None, "tiny", "budgets=.nan", "budgets.0: .*finite number"),
        (None, "tiny", "compile=1", "compile: .*valid boolean"),
        ("", None, "runs=3", "pretrained is empty: name a checkpoint on the hub, or its folder"),
    ],
)
def test_mistakes_are_named(pretrained: str | None, shape: str | None, override: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        bench_config(pretrained, shape, [override])


@pytest.mark.parametrize(
    ("shape", "billions"),
    [
        ("llava-1.5-7b", 7.06),
        ("llava-1.5-13b", 13.35),
        ("llava-next-7b", 7.06),
        ("qwen2.5-vl-7b", 8.29),
        ("internvl3-8b", 7.94),
    ],
)
def test_shapes_have_the_size_of_the_models(shape: str, billions: float) -> None:
    """The checkpoints' own numbers of parameters, from the shapes alone: nothing is allocated on meta."""
    import torch

    model = build(shape, torch.float16, torch.device("meta"))
    tokens = {"qwen2.5-vl-7b": 1024, "llava-next-7b": 2880, "internvl3-8b": 256}.get(shape, 576)
    assert family_at_hand(model).image_tokens(model.config) == tokens
    assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.006)
