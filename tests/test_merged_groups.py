"""Where merged tokens come from: the trace tells for every vision token which merged token it is part of."""

from __future__ import annotations

import copy
from math import inf
from typing import Any

import pytest
import torch
from tiny_models import IMAGE_TOKENS, batch, llava, prompt
from torch import Tensor

import adaptinfer_eval as ae
from adaptinfer_eval.analysis.kept.stages import read_stages
from adaptinfer_eval.models.kept import kept_tokens
from adaptinfer_eval.pruning.trace import Trace

SPARSEVLM = {"schedule": "1:24,3:16,5:9"}
PROMPTS = [prompt(5, 1, 7, 1), prompt(3, 2, 4, 2), prompt(6, 0, 5, 3), prompt(2, 1, 9, 7)]


def traced(inputs: dict[str, Tensor], method: Any) -> Trace:
    model = llava()
    with torch.no_grad(), ae.pruned(model, method) as trace:
        model(**inputs)
    return trace


def test_groups_are_those_of_the_merged_tokens_that_go_on() -> None:
    inputs = batch(PROMPTS)
    trace, length = traced(inputs, ae.get_method("sparsevlm")(**SPARSEVLM)), inputs["input_ids"].shape[1]
    is_vision = inputs["input_ids"] == llava().config.image_token_id
    assert list(trace.groups) == list(trace.kept) == [1, 3, 5]
    lost = 0
    for layer, kept in trace.kept.items():
        for row, vision, groups in zip(kept, is_vision, trace.groups[layer], strict=True):
            tokens = vision.nonzero()[:, 0]
            own = groups[: len(tokens)]
            assert (groups[len(tokens) :] == -1).all()
            assert set(own[own >= 0].tolist()) == {int(one) - length for one in row if one >= length}
            assert not (torch.isin(tokens, row) & (own >= 0)).any()  # kept or merged, not both
            lost += int((~torch.isin(tokens, row) & (own < 0)).sum())
    assert lost > 0


def test_batched_prompts_have_the_groups_that_they_have_alone() -> None:
    method = ae.get_method("sparsevlm")(**SPARSEVLM)
    together = traced(batch(PROMPTS), method).groups
    for number, alone in enumerate(PROMPTS):
        for layer, groups in traced(alone, method).groups.items():
            assert torch.equal(groups[0], together[layer][number, : groups.shape[1]])


@pytest.mark.parametrize("dropped", [20, 35, 45, 62, 80])
def test_clusters_do_not_depend_on_what_else_is_in_the_batch(dropped: int) -> None:
    """Of 1, 2 and 3 clusters; the centres of two have the same density nearly always."""
    method = ae.get_method("sparsevlm")(budget=64)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        hidden, score = torch.randn(2, 200, 32, generator=generator), torch.rand(2, 200, generator=generator)
        score[0, dropped:] = -inf
        made, into = method.merge(hidden[:1, :dropped], score[:1, :dropped], [dropped])
        together, joined = method.merge(hidden, score, [dropped, 200])
        assert torch.equal(into[0], joined[0, :dropped])
        assert torch.allclose(made[0], together[0, : made.shape[1]], atol=1e-6)


def test_a_merged_token_is_the_mean_of_its_group() -> None:
    method, seen = copy.copy(ae.get_method("sparsevlm")(schedule="1:24")), []

    def merge(hidden: Tensor, score: Tensor, dropped: list[int]) -> tuple[Tensor, Tensor]:
        seen.append((hidden, *type(method).merge(method, hidden, score, dropped)))
        return seen[-1][1:]

    object.__setattr__(method, "merge", merge)
    trace = traced(prompt(5, 1, 7, 1), method)
    (hidden, merged, _), groups = seen[0], trace.groups[1][0]
    for number, token in enumerate(merged[0]):
        assert torch.allclose(token, hidden[0, groups == number].mean(0), atol=1e-5)


def test_answers_tell_of_groups_and_their_stages_count_every_token() -> None:
    inputs = batch(PROMPTS)
    trace = traced(inputs, ae.get_method("sparsevlm")(**SPARSEVLM))
    images = [1, 2, 0, 1]
    rows = kept_tokens(trace, inputs["input_ids"] == llava().config.image_token_id, images)
    assert "groups" not in rows[2]
    for row, count, entering in zip(rows, images, trace.entering, strict=True):
        for stage in read_stages(row, count * IMAGE_TOKENS):
            assert stage.merged > 0
            assert stage.kept.sum() + stage.merged == entering[stage.layer + 1]


def test_methods_that_merge_nothing_have_no_groups() -> None:
    trace = traced(batch(PROMPTS), ae.get_method("adaptinfer")(schedule="1:24,3:16"))
    assert trace.kept
    assert trace.groups == {}
