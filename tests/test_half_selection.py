"""Half precision rounds a model's features, and nothing behind them: every choice is made in float32."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch
from tiny_models import IMAGE_TOKENS, batch, llava, prompt
from torch import Tensor

import adaptinfer_eval as ae
from adaptinfer_eval.methods.image import ImageMethod

HALF = [torch.float16, torch.bfloat16]
BEFORE = ("fastervlm", "divprune", "visionzip", "vispruner", "scope", "holov", "prumerge", "hiprune")
INSIDE = {
    "adaptinfer": "1:30,3:12",
    "fastv": "1:30",
    "pdrop": "1:30,3:12",
    "sparsevlm": "1:30,3:12",
    "fitprune": "1:30,3:12",
}


def watching(method: Any, hook: str, seen: list[Any]) -> Any:
    """The same method, which puts what its `hook` sees, and answers, into `seen`."""
    watched = copy.copy(method)

    def compute(shown: Any, *rest: Any) -> Any:
        answer = getattr(method, hook)(shown, *rest)
        seen.append((shown, answer))
        return answer

    object.__setattr__(watched, hook, compute)
    return watched


def tensors(shown: Any) -> Iterator[Tensor]:
    for field in fields(shown):
        value = getattr(shown, field.name)
        yield from (v for v in (value.values() if isinstance(value, dict) else [value]) if isinstance(v, Tensor))


def run(dtype: torch.dtype, method: Any, hook: str) -> tuple[Any, list[Any], ae.Trace]:
    """The model, what the method saw and answered in a batch of two, and the trace."""
    model, inputs = llava().to(dtype), batch([prompt(5, 1, 7, 1), prompt(3, 1, 9, 2)])
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    seen: list[Any] = []
    with torch.no_grad(), ae.pruned(model, watching(method, hook, seen)) as trace:
        model(**inputs)
    return model, seen, trace


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", BEFORE)
def test_what_is_seen_of_a_tower_is_float32(name: str, dtype: torch.dtype) -> None:
    method = ae.get_method(name)(budget=20)
    assert isinstance(method, ImageMethod)
    _, seen, _ = run(dtype, method, "select")
    (images, _) = seen[0]
    assert {tensor.dtype for tensor in tensors(images) if tensor.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", INSIDE)
def test_attention_is_float32(name: str, dtype: torch.dtype) -> None:
    _, seen, _ = run(dtype, ae.get_method(name)(schedule=INSIDE[name]), "score")
    for attention, score in seen:
        assert attention.to_vision.dtype == attention.to_text.dtype == score.dtype == torch.float32


@pytest.mark.parametrize("dtype", HALF)
def test_a_half_model_s_choice_is_that_of_its_features_in_float32(dtype: torch.dtype) -> None:
    """DivPrune, which the authors' code lets choose in half precision, at which a fourth of its tokens are others."""
    method = ae.get_method("divprune")(budget=20)
    model, _, trace = run(dtype, method, "select")
    pixels = batch([prompt(5, 1, 7, 1), prompt(3, 1, 9, 2)])["pixel_values"].to(dtype)
    with torch.no_grad():
        features = model.model.get_image_features(pixels).pooler_output
    projected = torch.stack(list(features)).float()
    assert projected.shape[:2] == (2, IMAGE_TOKENS)
    seen = ae.Images(projected, projected, None, (8, 8), project=lambda rows: rows)
    before = torch.tensor([[5 + 0], [3 + 0]])  # text in front of the images
    assert torch.equal(trace.kept[-1].cpu(), method.select(seen, 20).index + before)


@pytest.mark.parametrize("dtype", HALF)
def test_half_and_float32_models_differ_by_the_rounding_of_their_features(dtype: torch.dtype) -> None:
    """Tokens that only one of them keeps are as near to the limit as the rounding moves attention."""
    shown = []
    for precision in (torch.float32, dtype):
        _, seen, _ = run(precision, ae.get_method("fastervlm")(budget=20), "select")
        images, selection = seen[0]
        (attention,) = images.attention.values()
        shown.append((attention.mean(1), selection.index))
    (whole, kept), (half, kept_half) = shown
    limit = whole.gather(1, kept).amin(1, keepdim=True)
    moved = (whole - half).abs().amax(1, keepdim=True)
    assert 0 < moved.max() < 0.05 * whole.max()
    only_one = torch.zeros_like(whole).scatter(1, kept, 1) != torch.zeros_like(whole).scatter(1, kept_half, 1)
    assert ((whole - limit).abs() <= 2 * moved)[only_one].all()
