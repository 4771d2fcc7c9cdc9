"""What choosing costs: counted and measured of what a method computes, and little beside a pruned prefill."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import choosing as benchmark
import pytest
import torch
from tiny_models import METHODS, llava, prompt

import adaptinfer_eval as ae
from adaptinfer_eval.bench.choosing import choosing_share, watched
from adaptinfer_eval.bench.measure import Subject
from adaptinfer_eval.bench.operations import Arithmetic
from adaptinfer_eval.cost import Decoder, prefill_flops

SHAPE = Decoder(32, 4096, 11008, 32, 32, 128, 32064)


@pytest.mark.parametrize("name", ["divprune", "scope", "mmtok", "cdpruner", "vispruner"])
def test_greedy_methods_are_far_below_a_tenth_of_a_pruned_prefill(name: str) -> None:
    """At LLaVA-1.5-7B's shape, and 192 of 576 tokens, which take most steps."""
    method, counted = ae.get_method(name)(budget=192), Arithmetic()
    with torch.no_grad():
        benchmark.chosen_in(None, method, counted)
    prefill = prefill_flops(method, SHAPE, vision_tokens=576, text_before=35, text_after=31)
    assert 0 < counted.flops < 0.01 * prefill


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_products_count_two_for_each_multiply_add(mode: type[torch.no_grad]) -> None:
    with mode(), Arithmetic() as counted:
        product = torch.ones(2, 3, 5) @ torch.ones(2, 5, 7)
        product.sum(2)
    ones = 2 * 3 * 5 + 2 * 5 * 7
    assert counted.flops == ones + 2 * (2 * 3 * 5 * 7) + 2 * 3 * 7


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_a_watched_method_chooses_as_it_does(name: str, options: dict[str, object]) -> None:
    model, inputs, method = llava(), prompt(3, 1, 6, seed=1), ae.get_method(name)(**options)
    kept = []
    for attached in (method, watched(method, nullcontext)):
        with torch.no_grad(), ae.pruned(model, attached) as trace:
            model(**inputs)
        kept.append(trace.entering)
    assert torch.equal(*kept)


def test_the_share_is_measured_where_a_method_acts() -> None:
    subject = Subject(llava(), ae.get_method("vscan")(schedule="before:20,3:8"), prompt(3, 1, 6, seed=1), 2)
    with torch.no_grad():
        assert 0 < choosing_share(subject) < 1
        idle = replace(subject, method=ae.get_method("vanilla")())
        assert choosing_share(idle) == 0
