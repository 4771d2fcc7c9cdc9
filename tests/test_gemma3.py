"""What Gemma 3 has of its own: layers that see only so far back, and the rotary embedding of each kind of layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.gemma3 import save
from lmms_tiny import load_wrapper, mixed_documents
from test_lmms_models import ask

import adaptinfer_eval as ae
from adaptinfer_eval.backbones.messages import Image


def inputs_of(model: Any) -> Any:
    document = mixed_documents()[2]
    prompt = model.prompt([("user", [*map(Image, document["images"]), document["question"]])])
    return model.encode([prompt]).inputs.to(model.model.dtype)


@pytest.mark.parametrize("method", ["adaptinfer", "fastv", "pdrop", "random"])
def test_batches_answer_as_single_requests_where_layers_see_only_so_far(method: str, tmp_path: Path) -> None:
    documents, folder = mixed_documents(), save(tmp_path, 8, window=40)
    single, batched = (
        load_wrapper(folder, "gemma3", method, ",schedule=1:12/3:6", size, dtype="float64") for size in (1, 4)
    )
    assert ask(batched, documents) == ask(single, documents)


@torch.no_grad()
def test_a_shortened_prompt_is_seen_as_the_model_sees_one_of_that_length(tmp_path: Path) -> None:
    """Only the first image's tokens go: what is left is a prompt that the model's own masks can be made for."""
    model = load_wrapper(save(tmp_path, 8, window=20), "gemma3", dtype="float64")
    inputs, text = inputs_of(model), model.anatomy.text
    is_vision = model.anatomy.is_vision(inputs["input_ids"])[0]
    first = is_vision.nonzero()[:36, 0]

    class KeepsTheSecond(ae.LayerMethod):
        positions = "renumber"

        def score(self, attention: Any) -> Any:
            return (attention.numbers() >= 36).float()

    seen: dict[str, Any] = {}

    def note(_module: Any, args: Any, kwargs: Any) -> None:
        seen.setdefault("hidden", args[0]), seen.setdefault("mask", kwargs["attention_mask"])

    with ae.pruned(model.model, KeepsTheSecond(schedule="0:36")) as trace:
        handle = text.layers[1].register_forward_pre_hook(note, with_kwargs=True)  # behind the engine's own
        model.model(**inputs)
    handle.remove()
    left = [column for column in range(len(is_vision)) if column not in first.tolist()]
    assert trace.kept[0][0].tolist() == is_vision.nonzero()[36:, 0].tolist()
    masks = model.model.create_masks_for_generate(
        config=model.model.config,
        inputs_embeds=seen["hidden"],
        attention_mask=inputs["attention_mask"][:, left],
        position_ids=None,
        token_type_ids=inputs["token_type_ids"][:, left],
        **{ae.pruning.releases.CACHE: None},
    )
    assert torch.equal(seen["mask"], masks["sliding_attention"])
    image = torch.tensor(left)[None] == trace.kept[0][0][:, None]
    places = image.any(0).nonzero()[:, 0]
    assert seen["mask"][0, 0, places[0], places[1]]  # a token of the image sees the next one
    assert not seen["mask"][0, 0, places[-1], places[0]]  # and the last one not back to the first


def test_its_inner_part_is_refused(tmp_path: Path) -> None:
    model = load_wrapper(save(tmp_path, 8), "gemma3", dtype="float64").model
    with pytest.raises(ValueError, match="Gemma3Model does not make the masks that it needs: give the whole model"):
        ae.pruned(model.model, ae.get_method("fastv")(schedule="1:9")).__enter__()


@pytest.mark.parametrize("method", ["adaptinfer", "fastv", "pdrop", "random"])
@torch.no_grad()
def test_its_decoder_alone(method: str, tmp_path: Path) -> None:
    """Fed embeddings, it knows no images: a batch is as single prompts, and keeping every token changes nothing."""
    text = load_wrapper(save(tmp_path, 8, window=30), "gemma3", dtype="float64").anatomy.text
    embeds = torch.randn(2, 90, 64, generator=torch.Generator().manual_seed(0)).double()
    is_vision, valid = torch.zeros(2, 90, dtype=torch.bool), torch.ones(2, 90)
    is_vision[0, 10:60], is_vision[1, 40:70], valid[1, :25] = True, True, 0

    def last(rows: list[int], given: ae.Method | None) -> Any:
        start = 25 if rows == [1] else 0
        inputs = {"inputs_embeds": embeds[rows, start:], "attention_mask": valid[rows, start:]}
        if given is None:
            return text(**inputs).last_hidden_state[:, -1]
        with ae.pruned(text, given, vision_mask=is_vision[rows, start:]):
            return text(**inputs).last_hidden_state[:, -1]

    pruning = ae.get_method(method)(schedule="1:12,3:6")
    together = last([0, 1], pruning)
    assert torch.allclose(together, torch.cat([last([0], pruning), last([1], pruning)]), atol=1e-5)
    assert not torch.allclose(together, last([0, 1], None), atol=1e-2)
    if method in ("fastv", "random"):
        assert torch.equal(last([0], ae.get_method(method)(schedule="1:50")), last([0], None))
