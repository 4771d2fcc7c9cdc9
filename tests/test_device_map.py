"""LLaVA-1.5-13B's depth over several places: its official schedule prunes after 1, 11 and 22 of 40 layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lmms_tiny import load_wrapper, mixed_documents, save_tiny_llava
from test_lmms_models import ask
from transformers import LlavaForConditionalGeneration

import adaptinfer_eval as ae


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"), layers=40)


def places(layers: dict[range, str]) -> dict[str, str]:
    """A device map of which the decoder's layers are given, as `device_map="auto"` makes them."""
    parts = ("vision_tower", "multi_modal_projector", "language_model.embed_tokens", "language_model.norm")
    others = {f"model.{part}": "cpu" for part in (*parts, "language_model.rotary_emb")}
    decoder = {f"model.language_model.layers.{i}": place for own, place in layers.items() for i in own}
    return {**others, "lm_head": "cpu", **decoder}


@pytest.mark.parametrize("method", ["adaptinfer", "pdrop"])
def test_answers_do_not_depend_on_where_layers_are(checkpoint: Path, method: str, tmp_path: Path) -> None:
    wrapper = load_wrapper(checkpoint, "llava", method, ",budget=64" if method == "adaptinfer" else ",budget=16")
    alone, audit = ask(wrapper, mixed_documents()), wrapper.audit()
    auto: Any = LlavaForConditionalGeneration
    on_disk = places({range(14): "cpu", range(14, 27): "disk", range(27, 40): "cpu"})
    spread = auto.from_pretrained(
        checkpoint, dtype=torch.float32, device_map=on_disk, offload_folder=str(tmp_path), offload_buffers=True
    )
    assert {str(device) for device in spread.hf_device_map.values()} == {"cpu", "disk"}
    wrapper.model, wrapper.method = spread, wrapper.method
    assert ask(wrapper, mixed_documents()) == alone
    assert wrapper.audit() == pytest.approx(audit)


def test_the_official_schedule_is_that_of_the_depth(checkpoint: Path) -> None:
    method = ae.get_method("adaptinfer")(budget=64)
    assert str(method.plan(40, 576)) == "1:148,11:40,22:5"
    larger = ae.get_method("adaptinfer")(budget=320)
    assert [stage.layer for stage in larger.plan(40, 2880)] == [1, 11, 22]
    wrapper = load_wrapper(checkpoint, "llava", "adaptinfer", ",budget=64")
    ask(wrapper, mixed_documents()[:1])
    assert wrapper.audit()["schedule"] == "1:35,11:34,22:5"
