"""What InternVL has of its own: pixel-shuffled tokens, its own prompts, one tile or several per image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.internvl import save_internvl
from lmms_tiny import load_wrapper, mixed_documents
from PIL import Image as Picture
from test_lmms_models import METHODS as WRAPPED
from test_lmms_models import ask
from tiny_models import IMAGE_TOKENS, internvl

from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.sweep.cells import plan
from adaptinfer_eval.sweep.config import load_config
from adaptinfer_eval.sweep.shape import model_shape


def test_vision_tokens_are_a_grid_in_rows() -> None:
    """Down-sampling and pictures of kept tokens rely on it: token 8 r + c is of the patches (2r … 2r+1, 2c … 2c+1)."""
    places = torch.stack(torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij"), -1)[None]
    tokens = internvl().model.pixel_shuffle(places, 0.5).reshape(IMAGE_TOKENS, 4, 2)
    for index, patches in enumerate(tokens // 2):
        assert set(map(tuple, patches.tolist())) == {divmod(index, 8)}


# Inside lmms-eval --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_internvl(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def load(checkpoint: Path) -> Callable[..., Any]:
    return functools.partial(load_wrapper, checkpoint, "internvl")


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return mixed_documents()


@pytest.mark.parametrize("method", ["adaptinfer", "downsample"])
def test_a_mixed_batch_of_tiles_answers_as_single_requests(
    load: Callable[..., Any], documents: list[dict[str, Any]], method: str
) -> None:
    arguments = f"{WRAPPED[method]},max_patches=4"
    single, batched = (load(method, arguments, batch_size=size) for size in (1, 4))
    alone = ask(single, documents)
    assert ask(batched, documents) == alone
    assert len(set(alone)) == len(documents)  # so that another order could not pass
    assert batched.audit() == pytest.approx(single.audit())


def test_one_request_by_hand(load: Callable[..., Any], documents: list[dict[str, Any]]) -> None:
    model = load(batch_size=1)
    tile = f"<img>{'<IMG_CONTEXT>' * 36}</img>\n"
    text = f"<|im_start|>user\n{tile}{tile}{documents[2]['question']}<|im_end|>\n<|im_start|>assistant\n"
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    processor = model.processor.image_processor
    mean, std = np.array(processor.image_mean), np.array(processor.image_std)
    tiles = [np.asarray(image.resize((24, 24), Picture.Resampling.BICUBIC)) for image in documents[2]["images"]]
    pixels = torch.tensor((np.stack(tiles) / 255 - mean) / std, dtype=torch.float32).permute(0, 3, 1, 2)
    asked = model.encode([model.prompt([("user", [*map(Image, documents[2]["images"]), documents[2]["question"]])])])
    assert asked.inputs["input_ids"].tolist() == ids.tolist()
    assert torch.allclose(asked.inputs["pixel_values"], pixels, atol=1e-5)
    with torch.no_grad():
        output = model.model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=8, do_sample=False)
    by_hand = model.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert ask(model, documents)[2] == by_hand.strip()


def test_tiles_share_a_prompt_s_budget(load: Callable[..., Any]) -> None:
    wide = {"images": [Picture.new("RGB", (96, 48), "red")], "question": "Is there a red circle?"}
    audits = []
    for max_patches in (1, 2):
        model = load("fastv", f",schedule=1:10,max_patches={max_patches}")
        ask(model, [wide])
        audits.append(model.audit())
    # Two tiles side by side, and one of the whole image.
    assert [audit["vision_tokens"] for audit in audits] == [36, 3 * 36]
    assert [audit["entering"] for audit in audits] == [(2 * 36 + 2 * 10) / 4, (2 * 108 + 2 * 10) / 4]
    assert [audit["text_tokens"] for audit in audits] == [audits[0]["text_tokens"]] * 2


def test_the_number_of_tiles_is_recorded_and_checked(load: Callable[..., Any]) -> None:
    assert "max_patches=1" in repr(load())
    assert "max_patches=6" in repr(load(arguments=",max_patches=6"))
    for wrong in ("0", "many", "None", "2.5", "true"):
        with pytest.raises(ValueError, match=f"max_patches={wrong}: a whole number of tiles".replace("true", "True")):
            load(arguments=f",max_patches={wrong}")


def test_its_configuration_is_planned_on_the_shape_of_its_checkpoint(checkpoint: Path) -> None:
    config = load_config("internvl3")
    assert (config.name, config.backbone, config.budgets) == ("internvl3", "internvl", (128, 64, 32))
    leaving = [planned.audit.leaving if planned.audit else None for planned in plan(config)]
    vanilla, explicit, too_much, *others = leaving
    assert vanilla == 256
    assert explicit == pytest.approx(128, abs=0.5)
    assert too_much is None
    assert others == pytest.approx([64, 32], abs=0.5)
    assert model_shape(load_config("internvl3", [f"pretrained={checkpoint}"])).vision_tokens == 36
