"""What a sweep computes on paper, by hand, as torch counts it, and as a sweep's records have it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lmms_tiny import save_tiny_llava
from sweeps import run, small_sweep
from test_cost import AFTER, BEFORE, IMAGE, SDPA, VISION, llava
from torch.utils.flop_counter import FlopCounterMode

import adaptinfer_eval as ae
from adaptinfer_eval.pruning.prefix import SharedPrefix
from adaptinfer_eval.pruning.trunk import Trunk
from adaptinfer_eval.sweep.cells import plan
from adaptinfer_eval.sweep.config import Shape, load_config, shipped
from adaptinfer_eval.sweep.task_size import TaskSize, task_sizes
from adaptinfer_eval.sweep.whole_cost import Asked, Work, work_of_question, work_of_sweep

# A layer over n tokens that see a: 4n·2² + 2na·2 + 3n·2·3 = 34n + 4na.
SHAPE = Shape(num_layers=4, hidden_size=2, intermediate_size=3, vision_tokens=10)
ASKED = Asked(before=2, vision_tokens=10, after=3)
WHOLE = 34 * 15 + 4 * 15 * 15
"""A layer over all 15 tokens."""
TRUNK = 0.25 * (34 * 12 + 4 * 12 * 12) + 34 * 3 + 4 * 3 * 15
"""The same where four questions share a picture: 12 tokens for all of them, and the 3 of each."""
NINE, ELEVEN, TEN = (34 * n + 4 * n * n for n in (9, 11, 10))
VANILLA = ae.get_method("vanilla")()
TWO_LAYERS = ae.get_method("adaptinfer")(schedule="1:4")
ONE_LAYER = ae.get_method("fastv")(schedule="0:6")
DOWNSAMPLE, FITPRUNE = ae.get_method("downsample")(budget=5), ae.get_method("fitprune")(schedule="1:4")


@pytest.mark.parametrize(("pictures_begun", "trunk"), [(1.0, WHOLE), (0.25, TRUNK)])
def test_layers_in_front_of_first_stages_are_computed_once(pictures_begun: float, trunk: float) -> None:
    def work(*methods: ae.Method) -> Work:
        return work_of_question(methods, SHAPE, ASKED, pictures_begun)

    assert work(VANILLA) == Work(4 * WHOLE, 4 * trunk)
    assert work(ONE_LAYER) == Work(WHOLE + 3 * ELEVEN, trunk + 3 * ELEVEN)
    alone = WHOLE + 3 * ELEVEN + 2 * WHOLE + 2 * NINE
    assert work(ONE_LAYER, TWO_LAYERS) == Work(alone, 2 * trunk + 3 * ELEVEN + 2 * NINE)
    assert work(TWO_LAYERS, VANILLA, ONE_LAYER) == Work(alone + 4 * WHOLE, 4 * trunk + 3 * ELEVEN + 2 * NINE)


def test_causal_attention_is_over_half_of_what_is_computed_together() -> None:
    """12 tokens over 6 of themselves, mean, and the 3 of each question over the 12 and 1.5 of themselves."""
    asked = replace(ASKED, causal=True)
    trunk = 0.25 * (34 * 12 + 4 * 12 * 6) + 34 * 3 + 4 * 3 * 13.5
    whole, eleven = 34 * 15 + 4 * 15 * 7.5, 34 * 11 + 4 * 11 * 5.5
    work = work_of_question([ONE_LAYER], SHAPE, asked, 0.25)
    assert work == Work(whole + 3 * eleven, trunk + 3 * eleven)


def test_who_looks_at_all_rows_shares_nothing() -> None:
    own = 2 * WHOLE + 2 * NINE
    assert work_of_question([FITPRUNE], SHAPE, ASKED, 0.25) == Work(own, own)
    assert work_of_question([FITPRUNE, VANILLA], SHAPE, ASKED, 0.25).shared == own + 4 * TRUNK


def test_who_changes_the_input_shares_what_goes_in_among_the_questions_about_a_picture() -> None:
    """2 + 5 tokens for four questions, and the 3 of each."""
    own = 0.25 * (34 * 7 + 4 * 7 * 7) + 34 * 3 + 4 * 3 * 10
    assert work_of_question([DOWNSAMPLE], SHAPE, ASKED, 1.0) == Work(4 * TEN, 4 * TEN)
    assert work_of_question([DOWNSAMPLE], SHAPE, ASKED, 0.25) == Work(4 * TEN, 4 * own)
    assert work_of_question([DOWNSAMPLE, VANILLA], SHAPE, ASKED, 0.25).shared == 4 * own + 4 * TRUNK
    inside = ae.get_method("vscan")(schedule="before:5,1:2")
    assert work_of_question([inside], SHAPE, ASKED, 0.25).shared == 2 * own + 2 * (34 * 7 + 4 * 7 * 7)


def test_who_changes_the_input_by_the_question_shares_nothing() -> None:
    method = ae.get_method("mmtok")(budget=5)
    assert work_of_question([method], SHAPE, ASKED, 0.25) == Work(4 * TEN, 4 * TEN)


def test_the_pass_of_another_question_has_a_trunk_of_its_own() -> None:
    followers = [ae.get_method("other_question")(schedule=schedule) for schedule in ("1:4", "1:6")]
    tails = 2 * NINE + 2 * ELEVEN
    work = work_of_question([VANILLA, *followers], SHAPE, ASKED, 0.25)
    assert work.alone == 4 * WHOLE + 2 * (4 * WHOLE + tails)
    assert work.shared == 4 * TRUNK + tails + 2 * TRUNK + tails


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("of_a_picture", [1, 2, 3, 4, 8, 12, 32])
def test_pictures_begun_are_those_of_batches_cut_one_by_one(of_a_picture: int, batch_size: int) -> None:
    pictures = 48 * batch_size
    asked = [picture for picture in range(pictures) for _ in range(of_a_picture)]
    batches = [asked[start : start + batch_size] for start in range(0, len(asked), batch_size)]
    begun = sum(len(set(batch)) for batch in batches)
    assert TaskSize(len(asked), pictures).pictures_begun(batch_size) == pytest.approx(begun / len(asked))


@pytest.mark.parametrize("limit", [None, 24, 40, 100])
def test_mini_tasks_are_as_large_as_their_files_say(limit: int | None) -> None:
    sizes = task_sizes(load_config("mini").tasks)
    assert len(sizes) == 5
    for name, size in sizes.items():
        data = shipped(f"tasks/mini/data/{name.removeprefix('mini_')}.parquet")
        assert data
        images = pd.read_parquet(data, columns=["image"])["image"].tolist()[:limit]
        found = size.limited(limit)
        assert (found.questions, found.pictures) == (len(images), len({image["bytes"] for image in images})), name


def test_pictures_that_a_limit_leaves_are_bounded() -> None:
    assert TaskSize(100, 25).limited(10) == TaskSize(10, 10)
    assert TaskSize(100).limited(10).pictures is None
    assert TaskSize(100, 25).limited(200) == TaskSize(100, 25)
    assert task_sizes(["mini_video", "gqa", "adaptinfer_scienceqa_img"]) == {
        "adaptinfer_scienceqa_img": TaskSize(2017),
    }


@pytest.mark.parametrize("attention", [SDPA, "eager"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("vanilla", {}), *((name, {"budget": 64}) for name in ("adaptinfer", "sparsevlm", "downsample"))],
)
@torch.no_grad()
def test_what_questions_about_one_picture_share_is_what_torch_counts(
    name: str, options: dict[str, Any], attention: str
) -> None:
    """Three questions about a picture, one about another."""
    model, method = llava(kv_heads=4, attention=attention), ae.get_method(name)(**options)
    ids = torch.full((4, BEFORE + VISION + AFTER), 7)
    ids[:, BEFORE : BEFORE + VISION] = IMAGE
    pixels = torch.randn(2, 3, 96, 96)[[0, 0, 0, 1]]
    prefix = SharedPrefix(BEFORE + VISION, (0, 0, 0, 3))
    with ae.pruned(model, method, prefix=prefix), FlopCounterMode(display=False) as counter:
        model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=1)
    layers = [name for name in counter.flop_counts if re.search(r"language_model\.layers\.\d+$", name)]
    counted = sum(sum(counter.flop_counts[layer].values()) for layer in layers)
    shape = Shape(num_layers=32, hidden_size=128, intermediate_size=352, vision_tokens=VISION)
    work = work_of_question([method], shape, Asked(BEFORE, VISION, AFTER), 2 / 4)
    assert len(layers) == 32
    assert counted / 4 == pytest.approx(2 * work.shared, rel=0.01)
    assert work.shared < 0.9 * work.alone


@pytest.mark.parametrize("attention", [SDPA, "eager"])
@torch.no_grad()
def test_what_methods_share_is_what_torch_counts(attention: str) -> None:
    """In the order of their first stages, with the prefix of two pictures of four."""
    model = llava(kv_heads=4, attention=attention)
    named = [("adaptinfer", 64), ("adaptinfer", 48), ("fastv", 64), ("sparsevlm", 64), ("downsample", 64)]
    methods = [*(ae.get_method(name)(budget=budget) for name, budget in named), VANILLA]
    ids = torch.full((4, BEFORE + VISION + AFTER), 7)
    ids[:, BEFORE : BEFORE + VISION] = IMAGE
    pixels = torch.randn(2, 3, 96, 96)[[0, 0, 0, 1]]
    trunk, counted = Trunk(), 0
    for method in methods:
        prefix = SharedPrefix(BEFORE + VISION, (0, 0, 0, 3))
        with ae.pruned(model, method, prefix=prefix, trunk=trunk), FlopCounterMode(display=False) as counter:
            model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=1)
        layers = [name for name in counter.flop_counts if re.search(r"language_model\.layers\.\d+$", name)]
        counted += sum(sum(counter.flop_counts[layer].values()) for layer in layers)
    shape = Shape(num_layers=32, hidden_size=128, intermediate_size=352, vision_tokens=VISION)
    work = work_of_question(methods, shape, Asked(BEFORE, VISION, AFTER), 2 / 4)
    assert counted / 4 == pytest.approx(2 * work.shared, rel=0.01)
    assert work.shared < 0.8 * work.alone


def test_a_sweep_that_shares_nothing_is_what_its_records_say(tmp_path: Path) -> None:
    checkpoint = save_tiny_llava(tmp_path / "tiny", layers=8)
    methods = "methods=vanilla,adaptinfer,fastv,downsample,fitprune"
    config = small_sweep(checkpoint, tmp_path / "sweep", methods, "budgets=16,12", "sharing=false")
    records, failed, _ = run(config)
    assert not failed
    planned = plan(config)
    for task in config.tasks:
        audits = [record["audit"] for record in records.values() if record["task"] == task]
        assert len(audits) == len(planned) == 9
        text_tokens = audits[0]["text_tokens"]
        work = work_of_sweep(config, planned, task_sizes([task])[task].limited(config.limit), text_tokens)
        assert work.alone == work.shared
        assert 2 * work.alone == pytest.approx(sum(audit["flops"] for audit in audits), rel=1e-3)
