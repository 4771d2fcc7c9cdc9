"""A decode step on a pruned cache computes what the bare model would on a cache of that length, and nothing else."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from tiny_models import METHODS, batch, decoder, llava, prompt
from torch import Tensor

import adaptinfer_eval as ae
from adaptinfer_eval.bench.operations import Operations

BEFORE, VISION, AFTER = 5, 64, 7
ROTARY = {"bmm", "cat", "cos", "sin", "mul", "_to_copy", "arange"}
"""What makes cos and sin of a position."""


def prefill(model: Any, length: int) -> Any:
    return model(inputs_embeds=torch.randn(2, length, 32), use_cache=True, logits_to_keep=1).past_key_values


def step(model: Any, cache: Any) -> tuple[Tensor, Counter[str]]:
    operations = Operations()
    with operations:
        logits = model(input_ids=torch.tensor([[3], [4]]), past_key_values=cache, use_cache=True).logits
    return logits, operations.seen


def sees_tower(name: str, options: dict[str, Any]) -> bool:
    """Whether it works in the vision tower or looks at it: a bare decoder has none."""
    before = ae.get_method(name)(**options).before(8)
    return before is not None and (before.in_tower or before.look(0, 1).tower)


@pytest.mark.parametrize(("name", "options"), [entry for entry in METHODS if not sees_tower(*entry)])
@torch.no_grad()
def test_a_decode_step_has_no_extra_operations(name: str, options: dict[str, Any]) -> None:
    model, method = decoder("llama"), ae.get_method(name)(**options)
    mask = torch.zeros(2, BEFORE + VISION + AFTER, dtype=torch.bool)
    mask[:, BEFORE : BEFORE + VISION] = True
    with ae.pruned(model, method, vision_mask=mask):
        cache = prefill(model, mask.shape[1])
        bare_cache = copy.deepcopy(cache)
        logits, pruned = step(model, cache)
    bare_logits, bare = step(model, bare_cache)
    if getattr(method.inside(8), "positions", "keep") == "keep":
        assert pruned <= bare
        assert torch.equal(logits, bare_logits)
    else:  # one position per stage, made once for all its layers
        extra = pruned - bare
        assert not bare - pruned
        assert set(extra) <= ROTARY
        stages = options["schedule"].count(":")
        assert extra["cos"] == extra["sin"] == stages


# How many tokens PruMerge keeps without a budget depends on the image: the batch is then padded.
@pytest.mark.parametrize(("name", "options"), [entry for entry in METHODS if entry[1].get("budget", 1) is not None])
@torch.no_grad()
def test_nor_has_that_of_a_whole_model(name: str, options: dict[str, Any]) -> None:
    model, method = llava(), ae.get_method(name)(**options)
    inputs = batch([prompt(5, 1, 7, 1), prompt(5, 1, 7, 2)])
    del inputs["attention_mask"]  # as `generate` does where nothing is padded
    with ae.pruned(model, method):
        cache = model(**inputs, use_cache=True).past_key_values
        bare_cache = copy.deepcopy(cache)
        _, pruned = step(model, cache)
    _, bare = step(model, bare_cache)
    extra = pruned - bare
    assert set(extra) <= (ROTARY if getattr(method.inside(8), "positions", "keep") == "renumber" else set())
