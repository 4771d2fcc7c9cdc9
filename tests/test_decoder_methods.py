"""What DART, VTW, FitPrune and V2Drop do beyond what their authors' runs show (test_golden.py)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import pytest
import torch
from test_batches import check_batch_equals_singles
from tiny_models import IMAGE_TOKENS, batch, decoder, llava, prompt
from torch import Tensor

import adaptinfer_eval as ae
from adaptinfer_eval.sweep.cells import settings
from adaptinfer_eval.sweep.config import load_config

walk: Any = import_module(ae.get_method("dart").__module__).walk
SHAPE = {"num_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "text_tokens": 66}


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11, 18, 19, 30])
def test_pivots_are_walked_as_python_walks_a_set(count: int) -> None:
    draw = random.Random(count)
    drawn = [draw.sample(range(most), count) for most in (count, 64, 700, 20_000, 1 << 24) for _ in range(200)]
    found = walk(torch.tensor(drawn), torch.ones(len(drawn), count, dtype=torch.bool))
    assert [[row[i] for i in order] for row, order in zip(drawn, found.tolist(), strict=True)] == [
        list(set(row)) for row in drawn
    ]


def test_pivots_that_are_not_there_come_last() -> None:
    draw = random.Random(0)
    drawn = torch.tensor([draw.sample(range(700), 8) for _ in range(500)])
    there = torch.rand(drawn.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    for row, own, order in zip(drawn.tolist(), there.tolist(), walk(drawn, there).tolist(), strict=True):
        real = [value for value, here in zip(row, own, strict=True) if here]
        assert [row[i] for i in order[: len(real)]] == list(set(real))
        assert sorted(order) == list(range(8))


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "1:21"},  # the first pivot picks one more
        {"schedule": "1:64"},  # all there are
        {"schedule": "1:0.3,4:0.1", "image_pivots": 0, "text_pivots": 3},
        {"schedule": "2:9", "image_pivots": 9, "text_pivots": 0},
        {"budget": 0.4},
    ],
)
def test_dart_takes_any_count(options: dict[str, Any]) -> None:
    """Also of prompts with fewer words behind the image than pivots, or with none."""
    prompts = [(5, 1, 7, 1), (3, 2, 1, 2), (9, 0, 4, 3), (2, 1, 0, 4)]
    check_batch_equals_singles(llava(), ae.get_method("dart")(**options), prompts)


@pytest.mark.parametrize("name", ["dart", "v2drop", "fitprune"])
@torch.no_grad()
def test_a_method_that_keeps_all_changes_nothing(name: str) -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    before = model(**inputs).logits
    with ae.pruned(model, ae.get_method(name)(schedule=f"1:{IMAGE_TOKENS},4:{IMAGE_TOKENS}")) as trace:
        assert torch.equal(model(**inputs).logits, before)
    assert trace.kept[4].shape == (1, IMAGE_TOKENS)


@torch.no_grad()
def test_v2drop_keeps_what_the_layer_changed_most() -> None:
    model, embeds = decoder("llama"), torch.randn(1, 50, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 50, dtype=torch.bool)
    mask[:, 5:45] = True
    hidden = model(inputs_embeds=embeds, output_hidden_states=True).hidden_states
    with ae.pruned(model, ae.get_method("v2drop")(schedule="2:9"), vision_mask=mask) as trace:
        model(inputs_embeds=embeds)
    moved = (hidden[3] - hidden[2])[0, 5:45].norm(dim=1)
    assert trace.kept[2][0].tolist() == (5 + moved.topk(9).indices).sort().values.tolist()


@torch.no_grad()
def test_without_vision_tokens_nothing_is_left_of_them() -> None:
    """Behind VTW's layer the text is all there is, in every sample of a batch."""
    model, inputs = llava(), batch([prompt(5, 1, 7, 1), prompt(3, 2, 12, 2), prompt(9, 0, 4, 3)])
    with ae.pruned(model, ae.get_method("vtw")(schedule="3:0")) as trace:
        cache = model(**inputs, use_cache=True).past_key_values
    assert trace.entering[:, 4:].sum() == 0
    assert trace.kept[3].shape == (3, 0)
    assert cache.get_seq_length(7) == 3 + 12 + 2


@pytest.mark.parametrize(("reduction", "entering"), [(60, 244.97), (70, 187.88), (80, 130.59), (90, 72.84)])
def test_fitprune_s_tables_are_shares(reduction: int, entering: float) -> None:
    method = ae.get_method("fitprune")(reduction=reduction)
    found = ae.audit(method, **SHAPE, vision_tokens=576)
    assert found.entering == pytest.approx(entering, abs=0.006)
    assert method.describe(32, 2 * 576, 2) == method.describe(32, 2 * 576)
    several = ae.audit(method, **SHAPE, vision_tokens=3 * 576, images=3)
    assert several.entering_per_image == pytest.approx(entering, abs=1)
    solved = ae.get_method("fitprune")(budget=found.leaving)  # a budget that is a table's is that table
    assert solved.entering(32, 576) == method.entering(32, 576)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dart", {"schedule": "1:3"}, "keeps its 4 image pivots at least"),
        ("dart", {"schedule": "1:30", "image_pivots": -1}, "one pivot at least"),
        ("dart", {"schedule": "1:30", "image_pivots": 0, "text_pivots": 0}, "one pivot at least"),
        ("dart", {"budget": 64, "layers": "1,4"}, "prunes once"),
        ("vtw", {"schedule": "14:3"}, "keeps no vision token"),
        ("vtw", {"schedule": "14:0", "positions": "move"}, "keep and renumber"),
        ("vtw", {"budget": 64, "layers": "3"}, "instead of layers="),
        ("fitprune", {"reduction": 65}, "tables for 60, 70, 80, 90"),
        ("fitprune", {"reduction": 60, "budget": 64}, "not two"),
        ("fitprune", {"reduction": 60, "schedule": "1:30"}, "not two"),
        ("fitprune", {"reduction": 60, "count": "entering"}, "goes with budget="),
    ],
)
def test_options_that_cannot_be_meant(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ae.get_method(name)(**options)


@pytest.mark.parametrize(("count", "nearest", "has"), [("leaving", "4:0", 72), ("entering", "3:0", 72)])
def test_vtw_says_what_is_nearest_to_a_budget(count: str, nearest: str, has: int) -> None:
    message = (
        rf"VTW has no schedule of 64 vision tokens {count} on average; the nearest is schedule='{nearest}' with {has}"
    )
    with pytest.raises(ValueError, match=message):
        ae.get_method("vtw")(budget=64, count=count).plan(32, 576)
    assert getattr(ae.audit(ae.get_method("vtw")(schedule=nearest), **SHAPE, vision_tokens=576), count) == has


def test_fitprune_s_tables_are_for_one_depth() -> None:
    with pytest.raises(ValueError, match="for 32 layers, and the model has 28"):
        ae.get_method("fitprune")(reduction=60).plan(28, 576)


def test_a_sweep_s_budgets_are_not_for_a_table() -> None:
    config = load_config("mini", ["methods=[{name: fitprune, reduction: 90}, fastv]", "budgets=64"])
    assert [setting.label for setting in settings(config)] == ["fitprune.reduction=90", "fastv-64"]


def test_own_rows_are_shown_to_those_that_ask() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Unasked(ae.LayerMethod):
        official: ClassVar = {}

        def score(self, attention: ae.Attention) -> Tensor:
            assert attention.keys is attention.entering is attention.leaving is None
            return next(attention.among_vision()).sum((1, 2))

    model, inputs = llava(), prompt(5, 1, 7, 1)
    message = re.escape("queries = 'all'")
    with ae.pruned(model, Unasked(schedule="1:9")), pytest.raises(ValueError, match=message), torch.no_grad():
        model(**inputs)
