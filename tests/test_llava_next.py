"""What LLaVA-NeXT has of its own, two ways to pack an image's tiles and two decoders; and LLaVA-OneVision's tiles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.llava_next import save_mistral, save_onevision, save_vicuna
from lmms_tiny import load_wrapper, mixed_documents
from PIL import Image as Picture
from test_lmms_models import ask
from tiny_models import takes_features

from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.models.generation import Generation

SIDE = 6
"""Vision tokens along a side of a tile."""


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    folders: dict[str, Path] = {}

    def load(method: str = "vanilla", arguments: str = "", save: Any = save_vicuna, **options: Any) -> Any:
        if str(save) not in folders:
            folders[str(save)] = save(tmp_path_factory.mktemp("tiny"), 8)
        family = "llava_onevision" if save is save_onevision else "llava_next"
        return load_wrapper(folders[str(save)], family, method, arguments, **{"dtype": "float64", **options})

    return load


def shown(model: Any, *sizes: tuple[int, int]) -> Any:
    pictures = [Picture.effect_noise(size, 90).convert("RGB") for size in sizes]
    return model.encode([model.prompt([("user", [*map(Image, pictures), "What is it?"])])])


def vision_tokens(model: Any, *sizes: tuple[int, int]) -> int:
    return int(model.anatomy.is_vision(shown(model, *sizes).inputs["input_ids"]).sum())


def test_a_square_image_has_the_papers_number_of_tokens(load: Callable[..., Any]) -> None:
    """2880 of a tower with 24 × 24; and as many as `plan` says."""
    flat, own = load(arguments=",packing=flat") if _takes() else None, load()
    assert vision_tokens(own, (48, 48)) == 5 * SIDE**2 + 2 * SIDE == own.family.image_tokens(own.model.config)
    if flat is not None:
        assert vision_tokens(flat, (48, 48)) == 5 * SIDE**2 == flat.family.image_tokens(flat.model.config)
        assert vision_tokens(flat, (40, 20)) == 3 * SIDE**2


def _takes() -> bool:
    return not takes_features.args[0]


@takes_features
def test_flat_tiles_are_the_projected_tokens_in_their_order(load: Callable[..., Any]) -> None:
    model = load(arguments=",packing=flat")
    batch = model.encode_images(shown(model, (48, 48), (20, 40)))
    inner, pixels = model.model.model, batch.inputs["pixel_values"].double()
    with torch.no_grad():
        hidden = inner.vision_tower(torch.cat([pixels[0], pixels[1, :3]]), output_hidden_states=True).hidden_states
        expected = inner.multi_modal_projector(hidden[-2][:, 1:]).flatten(0, 1)
    assert torch.allclose(batch.features.pooled[0], expected)
    assert len(expected) == 8 * SIDE**2


@takes_features
@pytest.mark.parametrize("method", ["adaptinfer", "fastv", "pdrop"])
@pytest.mark.parametrize("budget", [40, 20, 10])
def test_budgets_of_a_sixteenth_and_more_come_out(load: Callable[..., Any], method: str, budget: int) -> None:
    """640, 320 and 160 of 2880 are as many of 180."""
    model = load(method, f",packing=flat,budget={budget}{',k=1' if method == 'fastv' else ''}")
    (answer,) = model.answer(shown(model, (48, 48)), Generation.read({"max_new_tokens": 1}))
    entering = answer.cost.entering
    assert sum([*entering[1:], entering[-1]]) / 8 == pytest.approx(budget, abs=0.5)
    assert answer.cost.vision_tokens == 180


@takes_features
def test_flat_batches_answer_as_single_requests(load: Callable[..., Any]) -> None:
    documents = mixed_documents()
    single, batched = (load("adaptinfer", ",packing=flat,schedule=1:10/3:4", batch_size=size) for size in (1, 4))
    alone = ask(single, documents)
    assert ask(batched, documents) == alone
    assert len(set(alone)) == len(documents)
    assert "packing='flat'" in repr(single)


def test_mistral_s_decoder(load: Callable[..., Any]) -> None:
    documents = mixed_documents()
    for method in ("adaptinfer", "random"):
        single, batched = (load(method, ",schedule=1:10/3:4", save_mistral, batch_size=size) for size in (1, 4))
        assert ask(batched, documents) == ask(single, documents)
    text = single.prompt([("user", [Image(documents[0]["images"][0]), "What?"])]).text
    assert text == "[INST] <image>\nWhat? [/INST]"


def test_only_a_single_image_of_onevision_has_tiles(load: Callable[..., Any]) -> None:
    model = load(save=save_onevision)
    assert vision_tokens(model, (48, 48)) == 5 * SIDE**2 + 2 * SIDE == model.family.image_tokens(model.model.config)
    assert vision_tokens(model, (48, 48), (48, 48)) == 2 * (SIDE**2 + 1)


def test_images_side_by_side_are_as_many_as_are_shown(load: Callable[..., Any]) -> None:
    """In OneVision's prompts nothing stands between them; a budget is of each."""
    model = load("fastv", ",schedule=1:9", save_onevision)
    batch = shown(model, (48, 48), (48, 48))
    assert "<image><image>" in batch.prompts[0].text
    answers, trace = model.traced_answer(batch, Generation.read({"max_new_tokens": 1}))
    assert trace.images == [answers[0].cost.images] == [2]
    model = load("random", ",budget=12", save_onevision)
    (answer,) = model.answer(shown(model, (48, 48), (48, 48)), Generation.read({"max_new_tokens": 1}))
    entering = answer.cost.entering
    assert sum([*entering[1:], entering[-1]]) / 8 == pytest.approx(2 * 12, abs=1)


def test_a_way_of_packing_that_is_none_is_refused(load: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="packing='unpad': known are spatial_unpad, flat"):
        load(arguments=",packing=unpad")


def test_a_budget_that_an_image_does_not_have_names_the_remedy(load: Callable[..., Any]) -> None:
    model = load("fastv", ",budget=400")
    with pytest.raises(
        ValueError, match=r"only 192 vision tokens: use vanilla; .* give a share of their tokens \(0\.25\)"
    ):
        model.answer(shown(model, (48, 48)), Generation.read({"max_new_tokens": 1}))


@takes_features
def test_tiles_share_an_image_s_budget_where_the_tower_is_looked_at(load: Callable[..., Any]) -> None:
    """Each keeps what its own class token attends to most; of 10 tokens, two of five tiles, four or three of three."""
    model = load("fastervlm", ",packing=flat,budget=10")
    batch = shown(model, (48, 48), (20, 40))
    _, trace = model.traced_answer(batch, Generation.read({"max_new_tokens": 2}))
    inner, pixels = model.model.model, batch.inputs["pixel_values"].double()
    model.model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = inner.vision_tower(torch.cat([pixels[0], pixels[1, :3]]), output_attentions=True).attentions
    of_class = attentions[-2][:, :, 0, 1:].mean(1)
    vision = model.anatomy.is_vision(batch.inputs["input_ids"])[0].nonzero()[:, 0]
    expected = [
        int(vision[tile * SIDE**2 + place])
        for tile, count in enumerate([2, 2, 2, 2, 2, 4, 3, 3])
        for place in of_class[tile].topk(count).indices.sort().values.tolist()
    ]
    assert trace.kept[-1].tolist() == [expected]
    assert trace.schedules == ["before:20"]


@takes_features
def test_of_tiles_with_marks_between_them_nothing_is_looked_at(load: Callable[..., Any]) -> None:
    model, generation = load("fastervlm", ",budget=10"), Generation.read({"max_new_tokens": 2})
    with pytest.raises(ValueError, match="left out, and marks put between: use packing=flat"):
        model.answer(shown(model, (48, 48)), generation)
    model = load("fastervlm", ",packing=flat,budget=4")
    with pytest.raises(ValueError, match="budget=4 is less than a token for each of an image's 5 tiles"):
        model.answer(shown(model, (48, 48)), generation)


@takes_features
def test_down_sampling_goes_through_tiles_as_through_frames(load: Callable[..., Any]) -> None:
    model = load("downsample", ",packing=flat,budget=20")
    batch = shown(model, (48, 48))
    _, trace = model.traced_answer(batch, Generation.read({"max_new_tokens": 2}))
    first = int(model.anatomy.is_vision(batch.inputs["input_ids"])[0].nonzero()[0])
    tiles = [(column - first) // SIDE**2 for column in trace.kept[-1][0].tolist()]
    assert sorted(map(tiles.count, range(5))) == [4] * 5
