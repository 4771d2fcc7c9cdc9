"""InternVL-Chat in LLaVA's layout, converted: it computes what the published weights say, and nothing else is taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lmms_tiny import load_wrapper
from PIL import Image as Picture
from published_chat import (
    INSIDE,
    PATCH,
    chat_weights,
    features,
    hidden_states,
    language_model,
    save_chat,
    save_tower,
    tower_weights,
    vocabulary,
    write,
)
from sentencepiece import SentencePieceProcessor
from shell import call
from sweep_folder import TASKS, lines, sweep_of
from test_lmms_models import METHODS, ask
from test_start import COMMAND, started
from torch import Tensor

import adaptinfer_eval as ae
from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.convert import weights as files
from adaptinfer_eval.convert.internvl_chat import convert
from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.sweep.identity import checkpoint_digest

HUB = "OpenGVLab/InternVL-Chat-ViT-6B-Vicuna-7B"


def written(source: Path, tower: Path | None = None) -> Path:
    """The converted folder, beside `source`."""
    target = source.with_name(f"{source.name}-converted")
    convert(str(source), target, str(tower) if tower else None, lambda text: None)
    return target


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Positions of 4 × 4 patches, for images of 6 × 6: the published model's 16 × 16 and 24 × 24."""
    folder = tmp_path_factory.mktemp("chat")
    return written(save_chat(folder / "chat"), save_tower(folder / "tower"))


@pytest.fixture(scope="module")
def model(converted: Path) -> Any:
    return load_wrapper(converted, "llava")


# It computes the same ------------------------------------------------------------------------------------------------


def prepared(picture: Picture.Image, side: int) -> Tensor:
    """As the original prepares a picture: the mean colour around it, resized by Pillow, ImageNet's mean and std."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    square = Picture.new("RGB", (max(picture.size),) * 2, tuple(int(value * 255) for value in mean))
    square.paste(picture, ((square.width - picture.width) // 2, (square.height - picture.height) // 2))
    values = np.asarray(square.resize((side, side), Picture.Resampling.BICUBIC)) / 255
    return torch.tensor((values - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    ("name", "patches", "side", "inside", "form"),
    [
        ("./pretrained/intern_vit_6b_224px", 4, 6, False, "bin"),
        ("OpenGVLab/InternViT-6B-224px", 4, 6, True, "bin"),
        ("OpenGVLab/InternViT-6B-224px", 4, 6, False, "safetensors"),
        ("OpenGVLab/InternViT-6B-448px", 8, 8, False, "safetensors"),
    ],
)
@torch.no_grad()
def test_hidden_states_vision_tokens_and_logits_are_those_of_the_published_weights(
    tmp_path: Path, name: str, patches: int, side: int, inside: bool, form: str
) -> None:
    source = save_chat(tmp_path / "chat", inside, form, mm_vision_tower=name)
    tower = None if inside else save_tower(tmp_path / "tower", patches, form)
    model = load_wrapper(written(source, tower), "llava")
    picture = Picture.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    inputs = model.encode([model.prompt([("user", [Image(picture), "What is it? 日本語"])])]).inputs
    pixels = prepared(picture, PATCH * side)
    assert torch.allclose(inputs["pixel_values"], pixels, atol=1e-5)

    states = hidden_states(tower_weights(patches), pixels)
    found = model.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    assert len(found) == len(states)
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(found, states, strict=True))

    chat, words = chat_weights(), SentencePieceProcessor(str(vocabulary()))
    before, _, after = model.prompt([("user", [Image(picture), "What is it? 日本語"])]).text.partition("<image>")
    texts = [[1, *words.encode(before)], words.encode(after)]
    placeholders = [model.model.config.image_token_id] * side**2
    assert inputs["input_ids"].tolist() == [[*texts[0], *placeholders, *texts[1]]]
    seen = features(chat, tower_weights(patches), pixels)
    assert torch.allclose(torch.stack(list(model.model.get_image_features(pixels).pooler_output)), seen, atol=1e-4)
    told = [chat["model.embed_tokens.weight"][text][None] for text in texts]
    logits = language_model(chat)(inputs_embeds=torch.cat([told[0], seen, told[1]], dim=1)).logits
    ours = model.model(**inputs).logits
    assert ours.shape[-1] == logits.shape[-1] + 1
    assert torch.allclose(ours[..., :-1], logits, atol=1e-3)  # of 8: what rounding in the tower grows to
    assert torch.equal(ours[..., -1], ours[..., 0])  # of an image's token: as <unk>


@torch.no_grad()
def test_an_answer_never_names_the_token_that_the_original_does_not_have(model: Any) -> None:
    image, rows = model.model.config.image_token_id, model.model.lm_head.weight.data
    inputs = model.encode([model.prompt([("user", ["Hello"])])]).inputs
    kept, likeliest = rows[image].clone(), model.model(**inputs).logits[0, -1].argmax()
    rows[image] = 2 * rows[likeliest]
    assert model.model(**inputs).logits[0, -1].argmax() == image
    assert model.model.generate(**inputs, max_new_tokens=1)[0, -1] == likeliest
    rows[image] = kept


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_tensor_keeps_its_dtype_and_its_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """In several files too, as a large checkpoint is written."""
    monkeypatch.setattr(files, "LARGEST_FILE", "1MB")
    inside = {INSIDE + name: tensor for name, tensor in tower_weights(6, dtype).items()}
    source = save_chat(tmp_path / "chat", inside=True)
    for path in source.glob("pytorch_model*"):
        path.unlink()
    write(tmp_path / "half", {}, {**chat_weights(dtype), **inside}, "bin", files=3)
    for path in (tmp_path / "half").glob("pytorch_model*"):
        path.rename(source / path.name)
    target = written(source)
    found = files.map_weights(target)
    assert len(list(target.glob("*.safetensors"))) > 3
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    assert json.loads((target / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    positions = found["model.vision_tower.embeddings.position_embeddings"]
    assert torch.equal(positions, inside[f"{INSIDE}embeddings.position_embedding"])
    rows = [found[f"model.vision_tower.encoder.layer.3.attention.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(rows), inside[f"{INSIDE}encoder.layers.3.attn.qkv.weight"])


# It runs here --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in METHODS if name != "tome"])
def test_every_method_answers_a_batch_as_single_requests(converted: Path, method: str) -> None:
    shown = [[Picture.new("RGB", (40 + 9 * index, 60), (80 * index, 99, 9))] * index for index in range(3)]
    documents = [{"images": images, "question": "Is it red? " * (len(images) + 1)} for images in shown]
    single, batched = (load_wrapper(converted, "llava", method, METHODS[method], size) for size in (1, 3))
    alone = ask(single, documents, max_new_tokens=4)
    assert ask(batched, documents, max_new_tokens=4) == alone
    assert batched.audit() == pytest.approx(single.audit())


def test_merging_in_the_tower_is_refused_with_the_reason(model: Any) -> None:
    with pytest.raises(ValueError, match="this model has none: use a method that prunes in the language model"):
        ae.pruned(model.model, ae.get_method("tome")(budget=20)).__enter__()


@pytest.mark.parametrize("size", [336, 448])
def test_plan_knows_the_shape_without_transformers(tmp_path: Path, size: int) -> None:
    source = save_chat(tmp_path / "chat", mm_vision_tower=f"InternViT-6B-{size}px")
    target = written(source, save_tower(tmp_path / "tower"))
    path = target / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"]["patch_size"] = [14, 14]  # of the published tower; as transformers has it by default
    path.write_text(json.dumps(config))
    budget = {336: "2:9", 448: "2:16"}[size]
    overrides = (f"pretrained={target}", f"methods=[{{name: fastv, schedule: '{budget}'}}]", "shape=null")
    printed, code, heavy = started(tmp_path, COMMAND, "plan", "table2", *overrides)
    assert (code, heavy) == (0, [])
    tokens = (size // 14) ** 2
    assert f"{(3 * tokens + int(budget[2:])) / 4:.2f}" in printed  # entering: three of four layers have all


# Where it comes from -------------------------------------------------------------------------------------------------


def hub(cache: Path, name: str, save: Callable[[Path], Path]) -> None:
    """A checkpoint as the hub's client keeps it."""
    kept = cache / f"models--{name.replace('/', '--')}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0123abc")
    (kept / "snapshots").mkdir()
    save(kept / "snapshots" / "0123abc")


def test_what_comes_from_the_hub_is_compared_with_what_is_published(tmp_path: Path, converted: Path) -> None:
    hub(tmp_path / "hub", HUB, save_chat)
    hub(tmp_path / "hub", "OpenGVLab/InternViT-6B-224px", save_tower)
    command = [sys.executable, "-m", "adaptinfer_eval.cli", "convert", HUB, "out"]
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--tower", "OpenGVLab/InternViT-6B-224px"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "out\n"), done.stderr
    known, unknown = checkpoint_digest(str(tmp_path / "out")), checkpoint_digest(str(converted))
    assert known.startswith(f"{HUB}@0123abc@")
    assert len(known.rpartition("@")[2]) == len(unknown) == 64
    for checkpoint, compared in ((known, True), (unknown, False)):
        sweep = sweep_of(TASKS, [64], {"adaptinfer": 0.8}, pretrained="out", checkpoint=checkpoint)
        found, notes = lines(sweep, "2")
        assert (found["AdaptInfer"].get("TextVQA published") == "53.0") is compared
        assert (f"they are of {HUB}, and the sweep's checkpoint is out" in notes) is not compared


# What is refused -----------------------------------------------------------------------------------------------------


def change(name: str, **changed: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return apply


def weights(name: str, changed: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        for path in (folder / name).glob("pytorch_model*.bin"):
            found = torch.load(path)
            changed(found)
            torch.save(found, path)

    return apply


def cut(name: str, file: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name / file
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return apply


def remove(name: str, file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name / file).unlink()


QKV = "encoder.layers.4.attn.qkv"
SECOND = "pytorch_model-00002-of-00002.bin"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (change("chat", mm_vision_tower="openai/clip-vit-large-patch14-336"), "is not of InternVL-Chat in the layout"),
        (change("chat", mm_vision_tower=None), "its mm_vision_tower is None, and no InternViT-6B"),
        (change("chat", mm_projector_type="linear"), "mm_projector_type='linear': only 'mlp2x_gelu' can be converted"),
        (change("chat", mm_use_im_start_end=True), "mm_use_im_start_end=True: only False can be converted"),
        (change("chat", image_aspect_ratio="square"), "image_aspect_ratio='square': only 'pad' can be converted"),
        (change("chat", mm_vision_select_layer=[-2, -4]), r"mm_vision_select_layer=\[-2, -4\]: a whole number"),
        (change("chat", mm_vision_select_layer=-7), "mm_vision_select_layer=-7 is of another tower: .* 5 layers"),
        (change("chat", intermediate_size=97), r"makes a tensor of \(96, 64\) where \(97, 64\) is wanted"),
        (change("tower", layer_norm_eps=1e-5), "layer_norm_eps=1e-05: only 1e-06 can be converted"),
        (change("tower", norm_type="layer_norm"), "norm_type='layer_norm': only 'rms_norm' can be converted"),
        (remove("chat", "config.json"), "chat has no config.json: give the folder of a checkpoint"),
        (remove("chat", "tokenizer.model"), "chat has no tokenizer.model: download the checkpoint again"),
        (remove("chat", SECOND), f"chat lacks {SECOND}: download"),
        (remove("tower", "pytorch_model.bin"), "tower has no weights"),
        (cut("chat", "config.json"), "config.json is damaged"),
        (cut("chat", "tokenizer.model"), "tokenizer.model cannot be read"),
        (cut("chat", SECOND), f"{SECOND} cannot be read .*: download it again"),
        (weights("chat", lambda found: found.pop("model.norm.weight", 0)), "lacks the tensor model.norm.weight"),
        (weights("tower", lambda found: found.pop(f"{QKV}.weight")), f"lacks the tensor .*{QKV}.weight"),
        (weights("tower", lambda found: found.update({f"{QKV}.bias": torch.ones(768)})), f"{QKV}.bias: the layout has"),
        (
            weights("chat", lambda found: found.update({f"model.x{number}": torch.ones(1) for number in range(3)})),
            "^model.x0 and 2 more: the layout has no such tensor",
        ),
        (
            weights("chat", lambda found: found.update({"model.embed_tokens.weight": torch.ones(32064, 64)})),
            "tokenizer.model has 32000 tokens and the model 32064",
        ),
    ],
)
def test_what_is_not_whole_or_not_of_the_layout_is_refused_and_nothing_written(
    tmp_path: Path, broken: Callable[[Path], None], message: str
) -> None:
    chat, tower = save_chat(tmp_path / "chat"), save_tower(tmp_path / "tower")
    broken(tmp_path)
    with pytest.raises(SweepError, match=message):
        written(chat, tower)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chat", "tower"]


def test_the_tower_is_given_once(tmp_path: Path) -> None:
    chat, tower = save_chat(tmp_path / "chat"), save_tower(tmp_path / "tower")
    with pytest.raises(SweepError, match=r"does not hold its vision tower: give --tower \(.*intern_vit_6b_224px\)"):
        written(chat)
    with pytest.raises(SweepError, match="holds its own vision tower: leave --tower out"):
        written(save_chat(tmp_path / "both", inside=True), tower)


def test_a_target_that_is_there_is_left_alone_and_what_a_killed_run_left_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = str(save_chat(tmp_path / "chat", inside=True))
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished" / "model.safetensors").write_text("half")
    assert call(monkeypatch, "convert", chat, str(tmp_path / "out")) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chat", "out"]
    before = checkpoint_digest(str(tmp_path / "out"))
    assert call(monkeypatch, "convert", chat, str(tmp_path / "out")) == 1
    assert f"adaptinfer-eval: {tmp_path / 'out'} is there already" in capsys.readouterr().err
    assert checkpoint_digest(str(tmp_path / "out")) == before


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = save_chat(tmp_path / "chat", inside=True)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(SweepError, match=r"takes 0\.0 GB, and 0\.0 GB are free"):
        written(chat)
    assert [path.name for path in tmp_path.iterdir()] == ["chat"]
