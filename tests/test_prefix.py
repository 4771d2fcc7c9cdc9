"""Questions about one image: what their prompts begin with is computed once, and nothing else changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from accelerate import dispatch_model
from test_batches import answers
from test_guarantees import NoSync
from tiny_models import (
    CASES,
    IMAGE,
    IMAGE_TOKENS,
    LAYER_METHODS,
    METHODS,
    MODELS,
    ROUNDING,
    batch,
    decoder,
    llava,
    prompt,
)
from torch import Tensor
from transformers import DynamicCache

import adaptinfer_eval as ae
from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Images, Look, Selection
from adaptinfer_eval.models.pictures import pad_behind, shared_prefix
from adaptinfer_eval.pruning.prefix import SharedPrefix

WHOLE = ("fitprune",)
PREFIX = SharedPrefix(5 + IMAGE_TOKENS, (0, 1, 0, 1, 4))


def questions() -> list[dict[str, Tensor]]:
    """Five questions of unequal length about three images, those about one image alike up to its end."""
    prompts = [prompt(5, 1, length, seed) for seed, length in enumerate((7, 12, 4, 7, 1))]
    for asked, first in zip(prompts, PREFIX.first, strict=True):
        asked["pixel_values"] = prompts[first]["pixel_values"]
        asked["input_ids"][:, : PREFIX.length] = prompts[first]["input_ids"][:, : PREFIX.length]
    return prompts


def together() -> dict[str, Tensor]:
    inputs = batch(questions())
    pictures = [pixels.sum().item() for pixels in inputs["pixel_values"]]
    assert shared_prefix(pictures, inputs, inputs["input_ids"] == IMAGE) == PREFIX
    pad_behind(PREFIX, inputs)
    return inputs


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "name", "options"), CASES)
def test_questions_that_share_their_image_equal_questions_one_by_one(
    family: str, name: str, options: dict[str, Any], attention: str
) -> None:
    inputs = together()
    model, method = MODELS[family](attention), ae.get_method(name)(**options)
    ids, logits, trace = answers(model, method, inputs, prefix=PREFIX)
    for row, single in enumerate(questions()):
        single_ids, single_logits, single_trace = answers(model, method, single)
        longer = inputs["input_ids"].shape[1] - single["input_ids"].shape[1]
        assert trace.entering[row].tolist() == single_trace.entering[0].tolist()
        for layer, kept in single_trace.kept.items():
            mine = trace.kept[layer][row]
            merged = mine >= inputs["input_ids"].shape[1]
            assert torch.where(merged, mine - longer, mine)[mine >= 0].tolist() == kept[0].tolist(), f"layer {layer}"
        assert (logits[row] - single_logits[0]).abs().max() < ROUNDING[family]
        assert ids[row].tolist() == single_ids[0].tolist()


@pytest.mark.parametrize("generation", [{"num_beams": 3}, {"repetition_penalty": 1.5}], ids=str)
@pytest.mark.parametrize(("name", "options"), METHODS)
def test_ways_to_generate(name: str, options: dict[str, Any], generation: dict[str, Any]) -> None:
    model, method = llava(), ae.get_method(name)(**options)
    ids, _, _ = answers(model, method, together(), prefix=PREFIX, **generation)
    for row, single in enumerate(questions()):
        assert ids[row].tolist() == answers(model, method, single, **generation)[0][0].tolist()


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_two_images_and_half_precision(name: str, options: dict[str, Any]) -> None:
    model, method = llava(), ae.get_method(name)(**options)
    prompts = [prompt(5, 2, length, 1) for length in (7, 3, 9)]  # of one seed, so that they begin alike
    for other in prompts[1:]:
        other["pixel_values"] = prompts[0]["pixel_values"]
    inputs = batch(prompts)
    prefix = shared_prefix(["same"] * 3, inputs, inputs["input_ids"] == IMAGE)
    assert prefix == SharedPrefix(5 + 2 * IMAGE_TOKENS + 1, (0, 0, 0))
    pad_behind(prefix, inputs)
    ids, logits, _ = answers(model, method, inputs, prefix=prefix)
    for row, single in enumerate(prompts):
        single_ids, single_logits, _ = answers(model, method, single)
        assert (logits[row] - single_logits[0]).abs().max() < 1e-4
        assert ids[row].tolist() == single_ids[0].tolist()
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    assert answers(model.bfloat16(), method, inputs, prefix=prefix)[1].isfinite().all()


def counted(layers: Any) -> Counter[int]:
    """Counts the tokens that each of `layers` computes from now on."""
    tokens = Counter[int]()
    for index, layer in enumerate(layers):
        layer.register_forward_hook(lambda *call, index=index: tokens.update({index: call[2][..., 0].numel()}))
    return tokens


@pytest.mark.parametrize(
    ("name", "options"), [each for each in METHODS if each[0] not in WHOLE and None not in each[1].values()]
)
@torch.no_grad()
def test_each_prefix_is_computed_once_up_to_the_first_layer_that_prunes(name: str, options: dict[str, Any]) -> None:
    model, inputs = llava(), together()
    rows, length = inputs["input_ids"].shape
    tokens = counted(model.model.language_model.layers)
    with ae.pruned(model, ae.get_method(name)(**options), prefix=PREFIX) as trace:
        model(**inputs, past_key_values=DynamicCache(config=model.config.text_config))
    enters, first = int(trace.entering[0, 0]), min((layer for layer in trace.kept if layer >= 0), default=7)
    computed = 3 * (PREFIX.length - IMAGE_TOKENS + enters) + rows * (length - PREFIX.length)
    assert [tokens[layer] for layer in range(first + 1)] == [computed] * (first + 1)
    text = length - IMAGE_TOKENS  # the longest prompt's, padding included
    for layer in range(first + 1, 8):
        assert tokens[layer] <= rows * (int(trace.entering[:, layer].max()) + text)


@pytest.mark.parametrize("family", ["llama", "mistral", "mistral with a window", "qwen2", "qwen3"])
@pytest.mark.parametrize(("name", "options"), LAYER_METHODS)
@torch.no_grad()
def test_bare_decoders(name: str, options: dict[str, Any], family: str) -> None:
    """A cache that slides cannot hand on a prefix, so nothing is shared there; the answer is the same.

    Nor for a method that looks at the rows of vision tokens.
    """
    window: dict[str, Any] = {}
    if "mistral" in family:
        window = {"sliding_window": 60 if "window" in family else None}
    model, method = decoder(family.split()[0], **window), ae.get_method(name)(**options)
    embeds = torch.randn(2, PREFIX.length + 9, 32, generator=torch.Generator().manual_seed(1))
    embeds[1, : PREFIX.length] = embeds[0, : PREFIX.length]
    is_vision = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    is_vision[:, 5 : PREFIX.length] = True
    with ae.pruned(model, method, vision_mask=is_vision) as trace:
        want, kept = model(inputs_embeds=embeds).logits[:, -1], dict(trace.kept)
    tokens = counted(model.model.layers)
    with ae.pruned(model, method, vision_mask=is_vision, prefix=SharedPrefix(PREFIX.length, (0, 0))) as trace:
        out = model(inputs_embeds=embeds, past_key_values=DynamicCache(config=model.config))
    assert tokens[0] == (2 * (PREFIX.length + 9) if "window" in family or name in WHOLE else PREFIX.length + 2 * 9)
    assert torch.allclose(out.logits[:, -1], want, atol=1e-5)
    assert all(torch.equal(trace.kept[layer], kept[layer]) for layer in kept)


@pytest.mark.parametrize(
    ("name", "options"),
    [("vanilla", {}), *LAYER_METHODS, ("fastervlm", {"budget": 20}), ("vscan", {"schedule": "before:30,3:9"})],
)
@torch.no_grad()
def test_weights_elsewhere_and_no_waiting_for_the_device(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model, method, inputs = llava(), ae.get_method(name)(**options), together()
    config = model.config.text_config
    singles = torch.cat([answers(model, method, single)[1][:, 0] for single in questions()])
    with ae.pruned(model, method, prefix=PREFIX), NoSync() as mode:
        logits = model(**inputs, past_key_values=DynamicCache(config=config)).logits[:, -1]
    assert mode.copies == 0
    assert torch.allclose(logits, singles, atol=1e-4)
    decoder_layers = {f"model.language_model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(8)}
    others = ("vision_tower", "multi_modal_projector", "language_model.embed_tokens", "language_model.norm")
    device_map = {**{f"model.{part}": "cpu" for part in others}, "lm_head": "cpu", **decoder_layers}
    device_map["model.language_model.rotary_emb"] = "cpu"
    dispatch_model(model, device_map, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    with ae.pruned(model, method, prefix=PREFIX):
        assert torch.equal(model(**inputs, past_key_values=DynamicCache(config=config)).logits[:, -1], logits)


@dataclass(frozen=True, kw_only=True)
class LikeText(ImageMethod):
    """Keeps the tokens nearest to the text behind the image."""

    name: ClassVar[str] = "like_text"

    def look(self, read: int, depth: int) -> Look:
        return Look(hidden=False, text=True)

    def select(self, images: Images, count: int) -> Selection:
        assert images.text is not None
        assert images.text_mask is not None
        asked = (images.text * images.text_mask[..., None]).sum(1, keepdim=True)
        return Selection((images.projected * asked).sum(-1).topk(count).indices.sort().values)


def test_a_method_that_cuts_images_by_what_is_asked_shares_nothing() -> None:
    model, method, inputs = llava(), LikeText(budget=20), together()
    tokens = counted(model.model.language_model.layers)
    ids, _, trace = answers(model, method, inputs, prefix=PREFIX)
    rows, length = inputs["input_ids"].shape
    assert tokens[0] >= rows * (20 + length - IMAGE_TOKENS)  # decode steps, too
    assert trace.kept[-1][0].tolist() != trace.kept[-1][2].tolist()  # of the same image
    for row, single in enumerate(questions()):
        assert ids[row].tolist() == answers(model, method, single)[0][0].tolist()


@pytest.mark.parametrize("prefix", [SharedPrefix(68, PREFIX.first), SharedPrefix(PREFIX.length, (0, 0)), None])
def test_a_prefix_of_another_batch_is_refused(prefix: SharedPrefix | None) -> None:
    """Or of one whose padding is still on the left."""
    model, inputs = llava(), together() if prefix else batch(questions())
    with (
        ae.pruned(model, ae.get_method("vanilla")(), prefix=prefix or PREFIX),
        pytest.raises(ValueError, match="prefix= says that"),
    ):
        model.generate(**inputs, max_new_tokens=1)


def test_a_later_batch_of_the_block_shares_nothing() -> None:
    model, method = llava(), ae.get_method("adaptinfer")(schedule="1:30,3:12,5:4")
    others = batch([prompt(5, 1, length, seed) for seed, length in enumerate((7, 12, 4, 7, 1), 10)])
    pad_behind(PREFIX, others)
    with ae.pruned(model, method, prefix=PREFIX):
        shared = [model.generate(**inputs, max_new_tokens=3) for inputs in (together(), others)]
    with ae.pruned(model, method):
        alone = [model.generate(**inputs, max_new_tokens=3) for inputs in (together(), others)]
    assert all(map(torch.equal, shared, alone))


@torch.no_grad()
def test_a_cache_of_another_kind_shares_nothing() -> None:
    """Quantized and offloaded ones cannot hand on what they hold."""

    class Other(DynamicCache):
        pass

    model, inputs = llava(), together()
    tokens = counted(model.model.language_model.layers)
    with ae.pruned(model, ae.get_method("vanilla")(), prefix=PREFIX):
        model(**inputs, past_key_values=Other(config=model.config.text_config))
    assert tokens[0] == inputs["input_ids"].numel()
