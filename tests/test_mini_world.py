"""The mini world: drawn data is what the repository ships, and training prompts are what the harness makes."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from adaptinfer_eval.backbones.vicuna import vicuna_v1
from adaptinfer_eval.models.requests import chat_messages, generation_requests
from adaptinfer_eval.sweep.config import load_config
from adaptinfer_eval.sweep.tasks import load_tasks
from tasks.mini.make import attention, loop, packing, questions, scene, text, train, vision
from tasks.mini.make.draw import DATA, draw_family
from tasks.mini.make.network import PATCHES, patch_features

MODEL = Path(__file__).parents[1] / "tasks" / "mini" / "model"


@pytest.mark.parametrize("family", list(questions.FAMILIES))
def test_shipped_rows_are_the_drawn_rows(family: str) -> None:
    assert draw_family(family) == pq.read_table(DATA / f"{family}.parquet").to_pylist()


@pytest.mark.parametrize("family", list(questions.FAMILIES))
def test_every_family_asks_about_most_scenes(family: str) -> None:
    rng = np.random.default_rng(1)
    asked = [bool(questions.FAMILIES[family](rng, scene.draw_scene(rng))) for _ in range(200)]
    assert np.mean(asked) > 0.7


def test_pictures_are_cluttered_and_evidence_sits_in_few_patches() -> None:
    rng = np.random.default_rng(2)
    scenes = [scene.draw_scene(rng) for _ in range(200)]
    assert min(map(len, scenes)) >= 12
    assert np.mean([scene.covered(things).sum() for things in scenes]) >= 250
    assert np.mean([scene.patch_labels(things).part.sum() for things in scenes]) < 16


def test_labels_say_what_is_there() -> None:
    things = scene.draw_scene(np.random.default_rng(4))
    labels = scene.patch_labels(things)
    for thing in things:
        for i, (x, y) in enumerate(scene.thing_parts(thing)):
            spot = y // scene.PATCH * scene.GRID + x // scene.PATCH
            assert labels.part[spot] == 1
            assert scene.KINDS[labels.kind[spot]] == (thing.shape or "sign")
            assert scene.COLOR_NAMES[labels.color[spot] - 1] == thing.color
            if thing.text:
                assert (scene.GLYPHS[labels.glyph[spot]], labels.slot[spot]) == (thing.text[i], i)
    assert labels.part.sum() == sum(len(scene.thing_parts(thing)) for thing in things)


def test_every_attribute_has_its_own_direction_and_word() -> None:
    things = scene.draw_scene(np.random.default_rng(4))
    (codes,) = vision._codes([scene.patch_labels(things)])
    words = [word for group in vision.WORDS.values() for word in group]
    assert codes.shape == (PATCHES, len(words))
    for thing in things:
        for i, (x, y) in enumerate(scene.thing_parts(thing)):
            said = {word for word, value in zip(words, codes[y // 4 * 24 + x // 4], strict=True) if value == 2 and word}
            sides = {("left", "right")[thing.center[0] > 48], ("top", "bottom")[thing.center[1] > 48]}
            assert said - sides == {thing.color, thing.text[i] if thing.text else thing.shape} | ({"sign"} & said)


def _train(steps: int) -> torch.Tensor:
    """A linear layer's weights after at most `steps` of the stage's six."""
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 1, device=loop.DEVICE)
    left = iter(range(steps))

    def loss(rng: np.random.Generator) -> torch.Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        inputs = torch.from_numpy(rng.random((4, 3), np.float32)).to(loop.DEVICE)
        error: torch.Tensor = module(inputs) - 1
        return error.pow(2).mean()

    with contextlib.suppress(KeyboardInterrupt):
        loop.train(loop.Plan(0, "stage", 6, rate=0.1, warmup=2), module, loss, dict)
    return module.weight.detach()


def test_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 1)
    monkeypatch.setattr(loop, "LOGS", tmp_path / "stopped")
    _train(2)
    _train(3)
    stopped = _train(6)
    monkeypatch.setattr(loop, "LOGS", tmp_path / "whole")
    assert torch.equal(_train(6), stopped)


def test_no_training_picture_is_asked_about() -> None:
    rows = [row for name in questions.FAMILIES for row in pq.read_table(DATA / f"{name}.parquet").to_pylist()]
    asked = {row["image"]["bytes"] for row in rows}
    asked_pixels = {np.asarray(Image.open(io.BytesIO(png))).tobytes() for png in asked}
    rng = np.random.default_rng((3, 0))  # as the language stages of seed 0 draw them
    for _ in range(20):
        some = [scene.draw_scene(rng) for _ in range(16)]
        assert not asked_pixels & {scene.render(rng, things).tobytes() for things in some}
        for things in some:
            packing.best_patches(rng, things, train.BEST)


def _example(family: str) -> tuple[NDArray[np.uint8], questions.Document]:
    rng = np.random.default_rng(3)
    while True:
        things = scene.draw_scene(rng)
        if documents := questions.FAMILIES[family](rng, things):
            return scene.render(rng, things), documents[0]


@pytest.fixture(scope="module")
def tasks() -> dict[str, Any]:
    return load_tasks(load_config("mini"))[1]


@pytest.mark.parametrize("family", list(questions.FAMILIES))
def test_training_prompts_are_the_harness_prompts(tasks: dict[str, Any], family: str) -> None:
    task = tasks[f"mini_{family}"]
    task.build_all_requests(limit=6)
    for request in generation_requests(task.instances, is_simple=False):
        document = task.dataset[request.split][request.doc_id]
        asked = vicuna_v1(chat_messages(request, document), "<image>", "</s>")
        assert text.whole_prompt(family, document) == asked


@pytest.mark.parametrize("family", list(questions.FAMILIES))
def test_packed_tokens_are_the_processors_tokens(family: str) -> None:
    picture, document = _example(family)
    processor = AutoProcessor.from_pretrained(MODEL, backend="pil")  # type: ignore[no-untyped-call]
    whole = processor(text=text.whole_prompt(family, document), images=Image.fromarray(picture), return_tensors="pt")
    image = [text.SPECIAL.index("<image>")] * PATCHES
    question = text.tokens("\n" + text.question_text(family, document))
    assert whole["input_ids"][0].tolist() == text.prefix_tokens() + image + question


def test_a_packed_question_is_answered_as_if_alone() -> None:
    rng = np.random.default_rng(5)
    things = scene.draw_scene(rng)
    picture = scene.render(rng, things)
    row = packing.draw_row(rng, things, train.WEIGHTS, 0.0, (), length=256)
    packed = packing.pack([row], 256)
    model = LlavaForConditionalGeneration.from_pretrained(MODEL, dtype=torch.float32, device_map=loop.DEVICE)
    processor = AutoProcessor.from_pretrained(MODEL, backend="pil")  # type: ignore[no-untyped-call]
    pixels = processor.image_processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"].to(loop.DEVICE)
    with torch.no_grad():
        alone = []
        for (sequence, asked), _ in row:
            ids = text.prefix_tokens() + [text.SPECIAL.index("<image>")] * PATCHES + sequence[:-1]
            logits = model(input_ids=torch.tensor([ids], device=loop.DEVICE), pixel_values=pixels).logits[0]
            alone.append(logits[-len(sequence) + 1 :][torch.tensor(asked[1:], device=loop.DEVICE)])
        model.set_attn_implementation(attention.NAME)
        features = patch_features(model, torch.from_numpy(picture)[None].to(loop.DEVICE))
        together, _ = train.answer_logits(model, features, torch.arange(PATCHES, device=loop.DEVICE)[None], packed)
    gap = (torch.cat(alone) - together).abs()
    spread = torch.cat(alone).std()
    assert gap.mean() < 0.05 * spread, f"mean {gap.mean():.4f}, max {gap.max():.4f} at a spread of {spread:.2f}"
