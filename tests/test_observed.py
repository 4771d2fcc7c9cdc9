"""`observed` shows what the model's own attention holds, of every layer, and leaves the model as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_guarantees import hooks
from tiny_models import IMAGE, MODELS, batch, decoder, llava, prompt, takes_features
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import adaptinfer_eval as ae
from adaptinfer_eval.models.pictures import pad_behind, shared_prefix
from adaptinfer_eval.pruning import observed
from adaptinfer_eval.pruning.observer import Received
from adaptinfer_eval.pruning.proof import PruningError, attention_of


def seen(model: Any, inputs: dict[str, Tensor], **options: Any) -> list[Received]:
    """What is shown of each layer in a prefill with one decode step behind it."""
    shown: list[tuple[int, Received]] = []
    with observed(model, lambda layer, received: shown.append((layer, received)), **options):
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert [layer for layer, _ in shown] == list(range(8))
    return [received for _, received in shown]


def assert_same(found: Any, expected: Any) -> None:
    """But for rounding: kernels add up in other orders."""
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def of_sample(received: Received, row: int) -> tuple[Tensor, Tensor]:
    return received.vision[row][received.vision_mask[row]], received.text[row][received.text_mask[row]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", MODELS.values())
@torch.no_grad()
def test_it_is_the_models_own_attention(family: Callable[..., Any], attention: str) -> None:
    inputs = prompt(5, 1, 7, 1)
    eager = family("eager")(**inputs, output_attentions=True).attentions
    is_vision = (inputs["input_ids"] == IMAGE)[0]
    after = int(is_vision.nonzero().max()) + 1
    for received, weights in zip(seen(family(attention), inputs), eager, strict=True):
        total = weights[0, :, after:].sum((0, 1))
        assert_same(received.vision[0], total[is_vision])
        assert_same(received.text[0], total[after:])
        assert received.vision_mask.all()
        assert received.text_mask.all()


@pytest.mark.parametrize("family", MODELS.values())
@torch.no_grad()
def test_batched_is_single(family: Callable[..., Any]) -> None:
    model = family()
    prompts = [prompt(5, 1, 7, 1), prompt(3, 2, 4, 2), prompt(6, 0, 9, 3), prompt(2, 1, 9, 4)]
    together = seen(model, batch(prompts))
    for row, alone in enumerate(prompts):
        if row == 2:  # no image
            assert not any(received.vision_mask[row].any() or received.text_mask[row].any() for received in together)
            assert not any(received.vision[row].any() or received.text[row].any() for received in together)
            continue
        for received, single in zip(together, seen(model, alone), strict=True):
            assert_same(of_sample(received, row), of_sample(single, 0))


@takes_features
@torch.no_grad()
def test_questions_that_share_a_picture_are_seen_as_one_by_one() -> None:
    model, one, other = llava(), prompt(5, 1, 7, 1), prompt(5, 1, 3, 1)
    other["pixel_values"] = one["pixel_values"]
    inputs = batch([one, other])
    prefix = shared_prefix(["the same"] * 2, inputs, inputs["input_ids"] == IMAGE)
    assert prefix is not None
    pad_behind(prefix, inputs)
    together = seen(model, inputs, prefix=prefix)
    for row, alone in enumerate((one, other)):
        for received, single in zip(together, seen(model, alone), strict=True):
            assert_same(of_sample(received, row), of_sample(single, 0))


@torch.no_grad()
def test_a_bare_decoder_with_a_window_is_seen() -> None:
    embeds, mask = torch.randn(1, 30, 32), torch.zeros(1, 30, dtype=torch.bool)
    mask[:, 4:20] = True
    model = decoder("mistral", "eager", sliding_window=12)
    weights = model(inputs_embeds=embeds, output_attentions=True).attentions
    shown: list[Received] = []
    with observed(model, lambda _, received: shown.append(received), vision_mask=mask):
        model(inputs_embeds=embeds)
    for received, layer in zip(shown, weights, strict=True):
        assert_same(received.vision, layer[:, :, 20:, 4:20].sum((1, 2)))
    assert not shown[0].vision[0, :4].any()  # out of every row's sight


@torch.no_grad()
def test_prompts_without_image_or_text_behind_it() -> None:
    model = llava()
    shown: list[Received] = []
    with observed(model, lambda _, received: shown.append(received)):
        model(**prompt(5, 0, 7, 1))
        assert not shown
        ends = prompt(5, 1, 0, 1)
        model(**{**ends, "input_ids": ends["input_ids"][:, :-1], "attention_mask": ends["attention_mask"][:, :-1]})
    assert len(shown) == 8
    assert not any(received.vision.any() or received.text_mask.any() for received in shown)


@pytest.mark.parametrize("family", MODELS.values())
@torch.no_grad()
def test_nothing_is_pruned_and_the_model_is_the_same_afterwards(family: Callable[..., Any]) -> None:
    model, inputs = family(), batch([prompt(5, 1, 7, 1), prompt(3, 2, 4, 2)])
    before, answer = model(**inputs).logits, model.generate(**inputs, max_new_tokens=3)
    facts, functions = (hooks(model), set(vars(model))), dict(ALL_ATTENTION_FUNCTIONS)
    with observed(model, lambda *_: None) as trace:
        assert torch.equal(model(**inputs).logits, before)
        assert torch.equal(model.generate(**inputs, max_new_tokens=3), answer)
        with pytest.raises(ValueError, match="already inside"), ae.pruned(model, ae.get_method("vanilla")()):
            pass
    assert trace.entering.tolist() == [[64] * 8, [128] * 8]
    with pytest.raises(KeyboardInterrupt), observed(model, lambda *_: None):  # noqa: PT012
        model(**inputs)
        raise KeyboardInterrupt
    assert torch.equal(model(**inputs).logits, before)
    assert (hooks(model), set(vars(model))) == facts
    assert dict(ALL_ATTENTION_FUNCTIONS) == functions


@torch.no_grad()
def test_a_layer_that_is_not_seen_or_not_finite_is_an_error() -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    attention: Any = attention_of(model.model.language_model.layers[5])
    attention.q_proj.weight.fill_(torch.nan)
    with pytest.raises(PruningError, match="in layer 5 are not finite"), observed(model, lambda *_: None):
        model(**inputs)
    attention.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(PruningError, match="attention of layer 5 was not seen"), observed(model, lambda *_: None):
        model(**inputs)


def test_what_cannot_be_observed_is_refused() -> None:
    model = llava()
    with pytest.raises(ValueError, match="observe the whole model"), observed(model.model.vision_tower, print):
        pass
    with pytest.raises(ValueError, match="training mode"), observed(model.train(), print):
        pass
