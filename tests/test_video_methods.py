"""Methods before the decoder on videos: what goes in of their frames, in a batch as alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from lmms_tiny import load_wrapper
from selection_oracles import evs
from test_video import CLIP, prompts

import adaptinfer_eval as ae
from adaptinfer_eval.backbones.messages import Video
from adaptinfer_eval.methods.tower import Images
from adaptinfer_eval.models.generation import Generation

TWO_TOKENS = Generation.read({"max_new_tokens": 2})


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    folders: dict[str, Path] = {}

    def load(family: str, method: str, arguments: str) -> Any:
        if family not in folders:
            folders[family] = FAMILIES[family].save(tmp_path_factory.mktemp(family), 8)
        return load_wrapper(folders[family], family, method, arguments + ",frames=8", dtype="float64")

    return load


@pytest.mark.parametrize("name", ["evs", "vidcom2", "vscan", "mmtok"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_videos_in_a_batch_keep_what_they_keep_alone(load: Callable[..., Any], family: str, name: str) -> None:
    model = load(family, name, ",budget=0.5")
    other = model.prompt([("user", [Video(str(CLIP.with_name("05.mkv"))), "What moves? " * 7])])
    asked = [prompts(model)[0], prompts(model)[3], other]  # a video, text alone, a video
    together, trace = model.traced_answer(model.encode(asked), TWO_TOKENS)
    for number, prompt in enumerate(asked):
        batch = model.encode([prompt])
        (alone,), single = model.traced_answer(batch, TWO_TOKENS)
        assert together[number].text == alone.text
        assert trace.entering[number].tolist() == single.entering[0].tolist()
    tokens = int(model.anatomy.is_vision(model.encode(asked[:1]).inputs["input_ids"]).sum())
    assert trace.entering[0].tolist() == model.method.entering(8, tokens)


@torch.no_grad()
def test_evs_keeps_the_first_frame_and_what_changes(load: Callable[..., Any]) -> None:
    model = load("qwen2_vl", "evs", ",budget=0.4")
    inputs = model.encode(prompts(model)[:1]).inputs.to(torch.float64)
    features = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
    projected = torch.cat(list(features.pooler_output))[None]
    steps, rows, columns = inputs["video_grid_thw"][0].tolist()
    images = Images(projected.float(), projected[..., :0], None, (steps, rows // 2, columns // 2), lambda own: own)
    with ae.pruned(model.model, model.method) as trace:
        model.model(**inputs)
    vision = model.anatomy.is_vision(inputs["input_ids"])[0].nonzero()[:, 0]
    kept = evs(images, model.method.image_budget(len(vision)))
    assert trace.kept[-1][0].tolist() == vision[kept].tolist()
    assert kept[: len(vision) // steps] == list(range(len(vision) // steps))


def test_a_budget_smaller_than_a_frame_is_refused(load: Callable[..., Any]) -> None:
    model = load("qwen2_vl", "evs", ",budget=8")
    with pytest.raises(ValueError, match="keeps a video's first frame, and its 64 tokens are more than the 8"):
        model.answer(model.encode(prompts(model)[:1]), TWO_TOKENS)
