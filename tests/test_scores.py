"""Scores decide tokens: in half precision as in single, and never where they are no numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from tiny_models import IMAGE_TOKENS, LAYER_METHODS, batch, decoder, llava, prompt
from torch import Tensor

import adaptinfer_eval as ae
from adaptinfer_eval.pruning.proof import PruningError

MASK = torch.zeros(1, 90, dtype=torch.bool)
MASK[:, 10 : 10 + IMAGE_TOKENS] = True


def large_keys(family: str) -> Any:
    """A decoder with a large part common to all queries and keys, in channels that RoPE hardly turns.

    Products pass float16's 65504; attention itself does not change by it.
    """
    model = decoder(family, head_dim=64, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    for layer in model.model.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            heads = projection.weight.data.view(-1, 64, 32)
            heads.mul_(2)
            heads[:, [31, 63]] = 0
            projection.bias = torch.nn.Parameter(torch.zeros(len(projection.weight)))
            projection.bias.data.view(-1, 64)[:, [31, 63]] = 220.0
    return model


def kept(model: Any, name: str, options: dict[str, Any], embeds: Tensor) -> list[set[int]]:
    with ae.pruned(model, ae.get_method(name)(**options), vision_mask=MASK) as trace, torch.inference_mode():
        logits = model(inputs_embeds=embeds.to(model.dtype)).logits
    assert logits.isfinite().all()
    return [{index for index in tokens[0].tolist() if index < 90} for tokens in trace.kept.values()]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize(("name", "options"), LAYER_METHODS)
def test_products_beyond_float16_choose_as_in_float32(name: str, options: dict[str, Any], family: str) -> None:
    torch.manual_seed(1)
    model, embeds = large_keys(family).half(), torch.randn(1, 90, 32).half()
    half = kept(model, name, options, embeds)
    single = kept(model.float(), name, options, embeds)
    # The first stage sees the same tokens in both; rounding of the model's own keys may move one or two at the border.
    assert len(half[0] & single[0]) >= len(single[0]) - 2, (half[0], single[0])


def test_tower_keys_that_are_no_numbers_are_an_error() -> None:
    tower, method = llava().model.vision_tower, ae.get_method("tome")(budget=40)
    layers = getattr(tower, "vision_model", tower).encoder.layers
    layers[1].self_attn.k_proj.bias.data[0] = torch.inf
    attached = ae.pruned(tower, method)
    with pytest.raises(PruningError, match="ToMe: scores in the vision tower"), attached, torch.inference_mode():
        tower(torch.randn(1, 3, 32, 32))


@dataclass(frozen=True, kw_only=True)
class Given(ae.LayerMethod):
    """Scores by what a test hands it."""

    scores: Any = None

    official: ClassVar = {}

    def score(self, attention: ae.Attention) -> Tensor:
        return self.scores(attention)  # type: ignore[no-any-return]


def not_a_number(attention: ae.Attention) -> Tensor:
    score = attention.to_vision.sum((1, 2))
    score[0, 7] = torch.nan
    return score


@pytest.mark.parametrize("call", ["generate", "forward"])
@torch.no_grad()
def test_scores_that_are_no_numbers_are_an_error(call: str) -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)

    def answer() -> None:
        with ae.pruned(model, Given(schedule="1:30,3:12", scores=not_a_number)):
            if call == "generate":
                model.generate(**inputs, max_new_tokens=2)
                pytest.fail("an answer was returned")
            model(**inputs)

    with pytest.raises(PruningError, match="Given: scores after layer 1 are not finite"):
        answer()
    model(**inputs)


@torch.no_grad()
def test_padding_may_have_any_score() -> None:
    def padded(attention: ae.Attention) -> Tensor:
        return attention.to_vision.sum((1, 2)).masked_fill(~attention.vision_mask, torch.nan)

    model, inputs = llava(), batch([prompt(5, 1, 7, 1), prompt(3, 2, 9, 2)])
    with ae.pruned(model, Given(schedule="1:30,3:12", scores=padded)) as trace:
        model.generate(**inputs, max_new_tokens=2)
    assert trace.entering[:, -1].tolist() == [12, 12]


@pytest.mark.parametrize(
    ("scores", "got"),
    [
        (lambda attention: attention.to_vision.sum(1), r"torch.float32 \(1, 8, 64\)"),
        (lambda attention: attention.to_vision.sum((1, 2))[:, 1:], r"torch.float32 \(1, 63\)"),
        (lambda attention: attention.vision_mask, r"torch.bool \(1, 64\)"),
        (lambda attention: None, "NoneType"),
    ],
)
@torch.no_grad()
def test_scores_of_another_form_are_an_error(scores: Any, got: str) -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    with (
        pytest.raises(ValueError, match=rf"Given.score gave {got} after layer 1: .* \(1, 64\)"),
        ae.pruned(model, Given(schedule="1:30", scores=scores)),
    ):
        model(**inputs)


@torch.no_grad()
def test_the_first_of_equal_scores_are_kept_in_any_batch() -> None:
    """A sliding window hides the images from the last token: all scores are 0."""
    model, embeds = decoder("mistral", sliding_window=6), torch.randn(3, 90, 32)
    mask = torch.zeros(3, 90, dtype=torch.bool)
    for row, tokens in enumerate((64, 41, 17)):
        mask[row, 10 : 10 + tokens] = True
    for rows in ([0, 1, 2], [0], [1], [2]):
        with ae.pruned(model, ae.get_method("fastv")(schedule="1:9"), vision_mask=mask[rows]) as trace:
            model(inputs_embeds=embeds[rows])
        assert trace.kept[1].tolist() == [list(range(10, 19))] * len(rows)
