"""A method that prunes before the decoder and in it does the one, then the other, to the same prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_batches import ANY_IMAGES, ONE_IMAGE, check_batch_equals_singles
from tiny_models import batch, decoder, llava, prompt

import adaptinfer_eval as ae
from adaptinfer_eval.methods.method import Method
from adaptinfer_eval.pruning.releases import cache_of

VSCAN = {"schedule": "before:40,2:13"}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_model_does_what_its_decoder_does_with_what_goes_in(attention: str) -> None:
    model, method, seen = llava(attention), ae.get_method("vscan")(schedule="before:40,2:13,5:4"), dict[str, Any]()
    inputs = batch([prompt(*facts) for facts in ONE_IMAGE])
    with ae.pruned(model, method) as trace:
        logits = model(**inputs).logits[:, -1]
    first, inside = method.before(8), method.inside(8)
    with ae.pruned(model, first) as before:
        layer = model.model.language_model.layers[0]
        hook = layer.register_forward_pre_hook(lambda _, args, kwargs: seen.update(rows=args[0]), with_kwargs=True)
        model(**inputs)
        hook.remove()
    columns = inputs["input_ids"].shape[1] - 24  # 64 - 40 tokens less, in every prompt
    place = torch.arange(columns)
    ends = torch.tensor([columns - after - 1 for _, _, after, _ in ONE_IMAGE])[:, None]  # a token follows the image
    mask = (place >= ends - 40) & (place < ends)
    real = torch.tensor([text + 1 + after + 40 for text, _, after, _ in ONE_IMAGE])[:, None]
    with ae.pruned(model.model.language_model, inside, vision_mask=mask) as after:
        hidden = model.model.language_model(
            inputs_embeds=seen["rows"], attention_mask=(place >= columns - real).long()
        )[0]
    assert torch.allclose(model.lm_head(hidden[:, -1]), logits, atol=1e-4)  # its positions count padding
    assert trace.kept[-1].tolist() == before.kept[-1].tolist()
    for stage in (2, 5):
        own = before.kept[-1].gather(1, after.kept[stage] - (ends - 40))
        assert trace.kept[stage].tolist() == own.tolist()
    assert trace.schedules == ["before:40,2:13,5:4"] * 4
    assert trace.entering.tolist() == [[40] * 3 + [13] * 3 + [4] * 2] * 4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("options", [VSCAN, {"budget": 0.5}, {"budget": 20, "per": "prompt"}, {"schedule": "3:9"}])
def test_batch_equals_single(options: dict[str, Any], attention: str) -> None:
    check_batch_equals_singles(llava(attention), ae.get_method("vscan")(**options), ONE_IMAGE)


def test_batch_of_several_images_equals_single() -> None:
    check_batch_equals_singles(llava(), ae.get_method("vscan")(budget=0.5), ANY_IMAGES)


@torch.no_grad()
def test_generation_caches_what_was_planned_and_the_model_is_as_before() -> None:
    model, inputs = llava(), batch([prompt(*facts) for facts in ANY_IMAGES])
    want = model(**inputs).logits
    method = ae.get_method("vscan")(budget=20)
    with ae.pruned(model, method) as trace:
        out = model(**inputs, use_cache=True)
    text = inputs["attention_mask"].sum(1) - (inputs["input_ids"] == model.config.image_token_id).sum(1)
    longest = (text[:, None] + trace.entering).amax(0).tolist()
    assert [cache_of(out).get_seq_length(layer) for layer in range(8)] == longest
    assert trace.entering.tolist() == [
        method.entering(8, 64 * images, images) if images else [0] * 8 for _, images, _, _ in ANY_IMAGES
    ]
    assert torch.equal(model(**inputs).logits, want)


@torch.no_grad()
def test_all_that_there_is_goes_in_and_on_unchanged() -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    want = model(**inputs).logits[:, -1]
    with ae.pruned(model, ae.get_method("vscan")(schedule="before:64,3:64")):
        assert torch.allclose(model(**inputs).logits[:, -1], want, atol=1e-5)


def test_costs_are_of_both_places() -> None:
    shape: dict[str, Any] = {"num_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "text_tokens": 66}
    cost = ae.audit(ae.get_method("vscan")(budget=64), vision_tokens=576, **shape)
    assert (cost.entering, cost.leaving, cost.schedule) == (64, 62, "before:96,15:32")
    with pytest.raises(ValueError, match="only 96 of a prompt's 96 are left there"):
        ae.audit(ae.get_method("vscan")(schedule="before:96,15:97"), vision_tokens=576, **shape)


def test_a_decoder_alone_has_no_tower_to_look_at() -> None:
    mask = torch.zeros(1, 80, dtype=torch.bool)
    mask[:, 5:69] = True
    method: Method = ae.get_method("vscan")(budget=20)
    with (
        pytest.raises(ValueError, match="chooses by what the vision tower computes"),
        ae.pruned(decoder("llama"), method, vision_mask=mask),
    ):
        pass
