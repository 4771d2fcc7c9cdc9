"""The control `foreground` finds what stands out of the image, and chooses among it by lot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import IMAGE, LAYER_METHODS, batch, llava, prompt
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration

import adaptinfer_eval as ae
from tasks.mini.make import scene

MINI_MODEL = Path(__file__).parent.parent / "tasks" / "mini" / "model"
SIDE, SIZE = 24, 64
CONTROL: Any = ae.get_method("foreground")


def image(share: float, seed: int, loudness: float = 1.0) -> tuple[Tensor, Tensor]:
    """Embeddings (576, 64) of a background with things of many kinds on `share` of it, and where those are.

    `loudness`: how much longer the background's embeddings are than the things', on average.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    things = torch.rand(SIDE * SIDE, generator=generator) < share
    thing = noise(8, SIZE)[torch.randint(0, 8, (SIDE * SIDE,), generator=generator)]
    background = noise(SIZE) + 0.1 * noise(SIDE * SIDE, SIZE)
    # Some patches are covered in part only; the background is not everywhere as loud.
    covered = 0.5 + 0.5 * torch.rand(SIDE * SIDE, 1, generator=generator)
    background = loudness * background * (0.5 + torch.rand(SIDE * SIDE, 1, generator=generator))
    return torch.where(things[:, None], background + covered * (thing - background), background), things


def prepared(images: list[Tensor], **options: Any) -> list[Tensor]:
    """What the control makes of some images in one batch, without the padding."""
    longest = max(map(len, images))
    vision = torch.stack([torch.nn.functional.pad(i, (0, 0, 0, longest - len(i)), value=1e4) for i in images])
    mask = torch.arange(longest) < torch.tensor([len(i) for i in images])[:, None]
    index = torch.arange(longest).expand(len(images), -1)
    order = CONTROL(budget=64, **options).prepare(ae.Embeddings(vision, index, mask, mask[:, :0]))
    return [row[: len(i)] for row, i in zip(order, images, strict=True)]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.45])
@pytest.mark.parametrize("loudness", [0.1, 0.5, 1.0, 2.0])
def test_the_foreground_comes_first(share: float, loudness: float) -> None:
    right = []
    for seed in range(4):
        tokens, things = image(share, seed, loudness)
        (order,) = prepared([tokens])
        right.append(((order >= 0) == things).float().mean())
    assert torch.stack(right).mean() > 0.9


def test_a_batch_of_unequal_images_is_ordered_as_each_alone() -> None:
    images = [image(0.4, 1)[0], image(0.2, 2)[0][:300], image(0.3, 3)[0].repeat(2, 1)]
    for alone, together in zip(images, prepared([*images, torch.zeros(0, SIZE)]), strict=False):
        assert torch.equal(prepared([alone])[0], together)


def test_lots_differ_with_the_seed_and_are_even() -> None:
    tokens, things = image(0.4, 1)
    first, second = prepared([tokens], seed=0)[0], prepared([tokens], seed=1)[0]
    assert torch.equal(first >= 0, second >= 0)
    chosen, others = first.topk(100).indices.tolist(), second.topk(100).indices.tolist()
    expected = 100 * 100 / int(things.sum())
    assert 0.5 * expected < len(set(chosen) & set(others)) < 1.5 * expected


def test_an_image_of_one_colour_has_no_foreground() -> None:
    (order,) = prepared([torch.ones(50, SIZE)])
    assert order.max() < 0
    assert len(set(order.tolist())) == 50


@torch.no_grad()
def test_it_finds_the_things_of_the_mini_world() -> None:
    """Of the tokens that are kept first on drawn pictures, nearly all show a thing: the generator knows which do."""
    model: Any = LlavaForConditionalGeneration.from_pretrained(MINI_MODEL, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(MINI_MODEL, backend="pil")  # type: ignore[no-untyped-call]
    rng = np.random.default_rng(11)
    scenes = [scene.draw_scene(rng) for _ in range(8)]
    pictures = [Image.fromarray(scene.render(rng, things)) for things in scenes]
    pixels = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    orders = torch.stack(prepared(list(model.model.get_image_features(pixel_values=pixels).pooler_output)))
    truth = torch.from_numpy(np.stack([scene.covered(things) for things in scenes]))
    right = truth.gather(1, orders.topk(128, dim=1).indices).float().mean()
    agree = ((orders >= 0) == truth).float().mean()
    chance = truth.float().mean()
    print(f"{chance:.3f} of the patches show a thing, {right:.3f} of 128 kept; {agree:.3f} are told apart rightly")
    assert right > (1 + chance) / 2
    assert agree > 0.7


@torch.no_grad()
def test_later_stages_keep_the_first_of_the_same_order() -> None:
    model, inputs = llava(), batch([prompt(5, 1, 7, 1), prompt(3, 2, 12, 2), prompt(9, 0, 4, 3)])
    seen: list[Tensor] = []

    class Watched(CONTROL):  # type: ignore[misc]
        def prepare(self, embeddings: ae.Embeddings) -> Tensor:
            seen.append(super().prepare(embeddings))
            return seen[0]

    with ae.pruned(model, Watched(schedule="1:20,3:9,4:6")) as trace:
        model(**inputs)
    for row, images in enumerate([1, 2, 0]):
        columns = (inputs["input_ids"][row] == IMAGE).nonzero()[:, 0]
        for layer, keep in ((1, 20), (3, 9), (4, 6)):
            best = seen[0][row, : len(columns)].topk(min(keep, len(columns))).indices.sort().values
            kept = trace.kept[layer][row]
            assert kept[kept >= 0].tolist() == columns[best].tolist(), f"{images} images, layer {layer}"


@pytest.mark.parametrize(("name", "options"), LAYER_METHODS)
@torch.no_grad()
def test_attention_says_which_tokens_it_is_of(name: str, options: dict[str, Any]) -> None:
    """At every stage: the numbers of the tokens that the stage before let go on, merged ones counted on."""
    model, method = llava(), ae.get_method(name)(**options)
    inputs = batch([prompt(5, 1, 7, 1), prompt(3, 2, 12, 2)])
    numbers: list[list[list[int]]] = []
    cls: Any = type(method)

    class Watched(cls):  # type: ignore[misc]
        def score(self, attention: ae.Attention) -> Tensor:
            pairs = zip(attention.numbers(), attention.vision_mask, strict=True)
            numbers.append([row[mask].tolist() for row, mask in pairs])
            return super().score(attention)  # type: ignore[no-any-return]

    with ae.pruned(model, Watched(**options)) as trace:
        model(**inputs)
    assert numbers[0] == [list(range(64)), list(range(128))]
    length = inputs["input_ids"].shape[1]
    for found, layer in zip(numbers[1:], sorted(trace.kept), strict=False):
        for row, ids in enumerate(trace.kept[layer]):
            columns = (inputs["input_ids"][row] == IMAGE).nonzero()[:, 0]
            ids = ids[ids >= 0]
            number = torch.where(ids < length, torch.searchsorted(columns, ids), ids - length + 128)
            assert found[row] == number.tolist()
