"""A checkpoint is loaded whole or refused by name, and an answer comes from finite logits or not at all."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import ALIKE, FAMILIES
from lmms_tiny import load_wrapper
from PIL import Image as Picture
from safetensors.torch import load_file, save_file
from shell import call
from sweeps import run, small_sweep
from torch import Tensor

from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.models.checkpoint import CheckpointError
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.loading import load_model
from adaptinfer_eval.sweep.config import SweepError

Weights = dict[str, Tensor]
LAYER_1 = "language_model.model.layers.1."
NORM = LAYER_1 + "input_layernorm.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("saved")
    return {family: FAMILIES[family].save(folder / family) for family in ALIKE}


def changed(checkpoint: Path, folder: Path, change: Callable[[Weights], None]) -> Path:
    """A copy of the checkpoint with other weights."""
    shutil.copytree(checkpoint, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def lose_layer(weights: Weights) -> None:
    for name in [name for name in weights if name.startswith(LAYER_1)]:
        del weights[name]


def lose_projector(weights: Weights) -> None:
    del weights["multi_modal_projector.linear_1.bias"]


def lose_head(weights: Weights) -> None:
    del weights["language_model.lm_head.weight"]


def grow(weights: Weights) -> None:
    weights[LAYER_1.replace("1", "7") + "mlp.up_proj.weight"] = torch.zeros(96, 64)


def cut_vocabulary(weights: Weights) -> None:
    weights["language_model.lm_head.weight"] = weights["language_model.lm_head.weight"][:100].clone()


def put(value: float) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        weights[NORM][5] = value

    return change


@pytest.mark.parametrize("family", ALIKE)
@pytest.mark.parametrize(
    ("change", "dtype", "message"),
    [
        (lose_layer, "auto", r"layers\.1\.input_layernorm\.weight and \d+ more missing"),
        (lose_projector, "auto", r"projector\.linear_1\.bias missing"),
        (grow, "auto", r"layers\.7\.mlp\.up_proj\.weight not of this model"),
        (cut_vocabulary, "auto", r"lm_head\.weight of another shape"),
        (
            put(torch.nan),
            "auto",
            r"not finite in float32 \(model\.language_model\.layers\.1\.input_layernorm\.weight\)",
        ),
        (put(-torch.inf), "auto", "not finite in float32"),
        (put(1e30), "float16", "not finite in float16 .*use dtype=bfloat16 or dtype=float32"),
    ],
)
def test_what_is_not_the_whole_checkpoint_is_refused(
    saved: dict[str, Path], tmp_path: Path, family: str, change: Callable[[Weights], None], dtype: str, message: str
) -> None:
    folder = changed(saved[family], tmp_path / "changed", change)
    with pytest.raises(CheckpointError, match=message) as refused:
        load_wrapper(folder, family, arguments=f",dtype={dtype}" if dtype != "auto" else "")
    assert str(folder) in str(refused.value)


def as_on_the_hub(name: str) -> str:
    """Of llava-hf/llava-1.5-7b-hf: the tower's inner module has a name of its own."""
    return name.replace("vision_tower.", "vision_tower.vision_model.")


def as_saved_since_4_52(name: str) -> str:
    name = re.sub(
        r"^language_model\.(model|lm_head)", lambda part: {"model": "model.language_model"}.get(part[1], part[1]), name
    )
    return re.sub(r"^(vision_tower|multi_modal_projector)", r"model.\1", name)


def with_old_buffers(weights: Weights) -> None:
    """What releases before 4.32 saved with every layer, and with a vision tower."""
    for layer in range(4):
        weights[f"language_model.model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    if "vision_tower.embeddings.patch_embedding.weight" in weights:
        weights["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(37)[None]


@pytest.mark.parametrize("family", ALIKE)
@pytest.mark.parametrize("name_of", [str, as_on_the_hub, as_saved_since_4_52])
def test_old_layouts_are_the_same_model(
    saved: dict[str, Path], tmp_path: Path, family: str, name_of: Callable[[str], str]
) -> None:
    if family == "internvl" and name_of is as_on_the_hub:
        name_of = str  # its tower has no inner module

    def change(weights: Weights) -> None:
        renamed = {name_of(name): weights.pop(name) for name in list(weights)}
        weights.update(renamed)
        with_old_buffers(weights)

    original, old = load_model(str(saved[family])), load_model(str(changed(saved[family], tmp_path / "old", change)))
    expected = original.state_dict()
    assert {name: weight for name, weight in old.state_dict().items() if not weight.equal(expected[name])} == {}


def test_tied_embeddings_are_not_missing(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(saved["llava"], tmp_path / "tied", lose_head)
    with pytest.raises(CheckpointError, match=r"lm_head\.weight missing"):
        load_model(str(folder))
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(str(folder))
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_weights_that_are_off_loaded_are_looked_at_too(saved: dict[str, Path], tmp_path: Path) -> None:
    text = [f"layers.{layer}" for layer in range(4)] + ["embed_tokens", "norm", "rotary_emb"]
    parts = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
    places = {part: "cpu" for part in parts} | {f"model.language_model.{part}": "cpu" for part in text}
    places["model.language_model.layers.1"] = "disk"
    load: dict[str, Any] = {"device_map": places, "offload_folder": str(tmp_path / "off-loaded")}
    assert load_model(str(saved["llava"]), **load).model.language_model.layers[1].mlp.up_proj.weight.is_meta
    with pytest.raises(CheckpointError, match=r"layers\.1\.input_layernorm"):
        load_model(str(changed(saved["llava"], tmp_path / "changed", put(torch.nan))), **load)


@pytest.fixture(scope="module")
def overflowing(saved: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every weight is finite in half precision; what the model makes of them is not."""

    def change(weights: Weights) -> None:
        weights[LAYER_1 + "mlp.down_proj.weight"] *= 1e4

    return changed(saved["llava"], tmp_path_factory.mktemp("overflowing") / "model", change)


def use(model: Any, pictures: list[str], generation: dict[str, Any] | None) -> list[Any]:
    """Answers about pictures of one colour each, or without `generation` the log-likelihoods of one."""
    content: list[Any] = [[Image(Picture.new("RGB", (24, 24), picture)), "Is it red?"] for picture in pictures]
    prompts = [replace(model.prompt([("user", parts)]), continuation="yes") for parts in content]
    batch = model.encode(prompts)
    assert (batch.prefix is None) == (len(pictures) == 1)
    if generation is None:
        return list(model.score(batch))
    return list(model.answer(batch, Generation.read({"max_new_tokens": 2, **generation})))


@pytest.mark.parametrize(
    "generation", [{}, {"num_beams": 2}, {"temperature": 1.0}, {"temperature": 1.0, "num_beams": 2}, None], ids=str
)
@pytest.mark.parametrize("pictures", [["red"], ["red", "red", "blue"]], ids=["alone", "shared prefix"])
def test_an_overflow_is_an_error_and_not_an_answer(
    overflowing: Path, generation: dict[str, Any] | None, pictures: list[str]
) -> None:
    half, whole = (load_wrapper(overflowing, "llava", arguments=f",dtype={dtype}") for dtype in ("float16", "float32"))
    assert len(use(whole, pictures, generation)) == len(pictures)
    with pytest.raises(FloatingPointError, match=r"in float16 .*not finite: use dtype=bfloat16 or dtype=float32"):
        use(half, pictures, generation)
    assert not half.model._forward_hooks


def test_a_sweep_does_not_measure_half_a_checkpoint(saved: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = changed(saved["llava"], tmp_path / "changed", lose_layer)
    with pytest.raises(SweepError, match=r"^\S+changed does not hold the weights .* more missing\): download"):
        run(small_sweep(checkpoint, tmp_path / "out", "methods=vanilla", "tasks=mini_gqa"))


def test_a_sweep_counts_an_overflow_as_a_failure_and_not_as_zero(overflowing: Path, tmp_path: Path) -> None:
    sweep = small_sweep(overflowing, tmp_path, "methods=vanilla", "tasks=mini_gqa", "dtype=float16")
    records, failed, _ = run(sweep)
    assert failed == ["llava-vanilla-mini_gqa"]
    assert "in float16 gives logits that are not finite: use dtype=bfloat16" in records[failed[0]]["reason"]


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_checkpoint_of_another_family_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    saved: dict[str, Path],
    tmp_path: Path,
    command: str,
) -> None:
    where = (f"pretrained={saved['internvl']}", f"output={tmp_path / 'out'}")
    assert call(monkeypatch, command, "mini", *where) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"adaptinfer-eval: {saved['internvl']}/config.json is of model_type 'internvl' and was asked for as llava: "
        "use backbone=internvl (in lmms-eval a model METHOD_internvl), or another checkpoint"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("asked", [("device=cuda:9",), ("device=gpu",), ()])
def test_a_benchmark_says_in_a_line_what_it_cannot_load(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    saved: dict[str, Path],
    tmp_path: Path,
    asked: tuple[str, ...],
) -> None:
    checkpoint = changed(saved["llava"], tmp_path / "changed", lose_projector)
    options = ("dtype=float32", f"output={tmp_path / 'out'}", *asked)
    assert call(monkeypatch, "bench", "--pretrained", checkpoint, *options) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("adaptinfer-eval: ")
    assert (asked[0] if asked else "projector.linear_1.bias missing") in last
