"""InternVL is pruned as LLaVA is: pixel-shuffled tokens, its own prompts, one tile or several per image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from lmms_tiny import load_wrapper, save_tiny_internvl
from PIL import Image as Picture
from test_batches import ANY_IMAGES, check_batch_equals_singles
from test_lmms_models import METHODS as WRAPPED
from test_lmms_models import ask
from tiny_models import IMAGE_TOKENS, LAYER_METHODS, METHODS, batch, internvl, prompt, takes_features

import adaptinfer_eval as ae
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.requests import Image
from adaptinfer_eval.sweep.cells import plan
from adaptinfer_eval.sweep.config import load_config
from adaptinfer_eval.sweep.shape import model_shape

# All but those that work in the vision tower.
PRUNES = [(name, options) for name, options in METHODS if name != "tome"]
WRAPPED_PRUNES = {name: arguments for name, arguments in WRAPPED.items() if name != "tome"}


@pytest.mark.parametrize(("name", "options"), PRUNES)
def test_a_batch_with_0_1_or_2_images_equals_its_prompts_one_by_one(name: str, options: dict[str, Any]) -> None:
    # In double precision: behind its LayerNorm the projector makes single precision's rounding visible.
    check_batch_equals_singles(internvl().double(), ae.get_method(name)(**options), ANY_IMAGES)


@pytest.mark.parametrize(("name", "options"), PRUNES)
@torch.no_grad()
def test_the_cache_is_as_long_as_the_trace_says_and_the_model_is_itself_again(
    name: str, options: dict[str, Any]
) -> None:
    model, inputs = internvl(), prompt(5, 1, 7, 1)
    before, text = model(**inputs).logits, inputs["input_ids"].shape[1] - IMAGE_TOKENS
    with ae.pruned(model, ae.get_method(name)(**options)) as trace:
        out = model(**inputs, use_cache=True)
        model(input_ids=torch.tensor([[7]]), past_key_values=out.past_key_values)
        assert [out.past_key_values.get_seq_length(i) for i in range(8)] == (trace.entering[0] + text + 1).tolist()
    assert trace.kept or name == "vanilla"
    assert torch.equal(out.logits[:, -1], before[:, -1]) == (name == "vanilla")
    assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize(("family", "attention"), [("qwen2", "eager"), ("qwen3", "sdpa"), ("llama", "sdpa")])
@pytest.mark.parametrize(("name", "options"), LAYER_METHODS)
@torch.no_grad()
def test_it_equals_its_decoder_on_the_same_embeddings(
    name: str, options: dict[str, Any], family: str, attention: str
) -> None:
    model, method = internvl(attention, family), ae.get_method(name)(**options)
    inputs = batch([prompt(*facts) for facts in ANY_IMAGES])
    with ae.pruned(model, method) as trace:
        logits = model(**inputs).logits[:, -1]
    mask = inputs["input_ids"] == model.config.image_token_id
    features = model.get_image_features(inputs["pixel_values"]).pooler_output.flatten(0, 1)
    embeds = model.get_input_embeddings()(inputs["input_ids"]).masked_scatter(mask[..., None], features)
    with ae.pruned(model.model.language_model, method, vision_mask=mask) as bare:
        hidden = model.model.language_model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])[0]
    assert torch.allclose(model.lm_head(hidden[:, -1]), logits, atol=1e-5)
    assert trace.kept.keys() == bare.kept.keys()
    assert all(torch.equal(trace.kept[layer], bare.kept[layer]) for layer in bare.kept)


def test_vision_tokens_are_a_grid_in_rows() -> None:
    """Down-sampling and pictures of kept tokens rely on it: token 8 r + c is of the patches (2r … 2r+1, 2c … 2c+1)."""
    places = torch.stack(torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij"), -1)[None]
    tokens = internvl().model.pixel_shuffle(places, 0.5).reshape(IMAGE_TOKENS, 4, 2)
    for index, patches in enumerate(tokens // 2):
        assert set(map(tuple, patches.tolist())) == {divmod(index, 8)}


def test_merging_in_the_tower_is_refused() -> None:
    attached = ae.pruned(internvl(), ae.get_method("tome")(budget=40))
    with pytest.raises(ValueError, match="this model has none: use a method that prunes in the language model"):
        attached.__enter__()


# Inside lmms-eval --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_internvl(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def load(checkpoint: Path) -> Callable[..., Any]:
    return functools.partial(load_wrapper, checkpoint, "internvl")


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager("WARNING")


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    """Questions of unequal length over 1, 0, 2, 1 images of unequal shape."""
    rng = np.random.default_rng(0)
    documents = []
    for index, count in enumerate((1, 0, 2, 1)):
        sizes = [(20 + 7 * index, 60 - 3 * image, 3) for image in range(count)]
        images = [Picture.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]
        documents.append({"images": images, "question": "Is there a red circle? " * (index + 1)})
    return documents


@pytest.mark.parametrize(
    ("method", "max_patches"), [*((method, 1) for method in WRAPPED_PRUNES), ("adaptinfer", 4), ("downsample", 4)]
)
def test_a_mixed_batch_answers_as_single_requests(
    load: Callable[..., Any], documents: list[dict[str, Any]], method: str, max_patches: int
) -> None:
    arguments = f"{WRAPPED_PRUNES[method]},max_patches={max_patches}"
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


@takes_features
def test_features_encoded_once_give_the_same_answers(load: Callable[..., Any], documents: list[dict[str, Any]]) -> None:
    model = load("adaptinfer", WRAPPED["adaptinfer"])
    prompts = [model.prompt([("user", [*map(Image, d["images"]), d["question"]])]) for d in documents]
    encoded, generation = model.encode(prompts), Generation.read({"max_new_tokens": 8})
    shared = model.encode_images(encoded)
    assert shared.features is not None
    texts = [[answer.text for answer in model.answer(batch, generation)] for batch in (encoded, shared, shared)]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("simple", [False, True], ids=["chat", "simple"])
def test_lmms_eval_runs_a_task(load: Callable[..., Any], manager: TaskManager, simple: bool) -> None:
    def run(batch_size: int) -> tuple[dict[int, str], Any]:
        model = load("adaptinfer", WRAPPED["adaptinfer"], batch_size, simple)
        results = simple_evaluate(
            model=model,
            tasks=["mini_mme"],
            task_manager=manager,
            limit=8,
            datetime_str=f"batch {batch_size}",
            bootstrap_iters=0,
        )
        assert "mme_perception_score,none" in results["results"]["mini_mme"]
        return {s["doc_id"]: s["filtered_resps"][0] for s in results["samples"]["mini_mme"]}, model.audit()

    (alone, audit), (together, _) = run(1), run(4)
    assert alone == together
    assert (audit["requests"], audit["vision_tokens"]) == (8, 36)
    assert audit["schedule"] == "0:20,1:10,2:5"


def test_table_2_is_planned_on_the_shape_of_its_checkpoint(checkpoint: Path) -> None:
    config = load_config("table2")
    assert (config.name, config.backbone, config.budgets) == ("table2", "internvl", (128, 64, 32))
    leaving = [planned.audit.leaving if planned.audit else None for planned in plan(config)]
    vanilla, explicit, too_much, *others = leaving
    assert vanilla == 256
    assert explicit == pytest.approx(128, abs=0.5)
    assert too_much is None
    assert others == pytest.approx([64, 32], abs=0.5)
    assert model_shape(load_config("table2", [f"pretrained={checkpoint}"])).vision_tokens == 36
