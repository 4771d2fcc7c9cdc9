"""What a budget means for prompts of several images: the same for all methods, on paper and in the model."""

from __future__ import annotations

import base64
import json
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lmms_tiny import load_wrapper, save_tiny_llava
from loguru import logger
from PIL import Image
from test_batches import answers, check_batch_equals_singles
from tiny_models import IMAGE_TOKENS, batch, decoder, internvl, llava, prompt

import adaptinfer_eval as ae
from adaptinfer_eval.backbones.messages import Image as Part
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.kept import kept_tokens
from adaptinfer_eval.models.tally import Cost
from adaptinfer_eval.sweep.cells import plan
from adaptinfer_eval.sweep.config import load_config

LLAVA_7B = {"num_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "text_tokens": 66}
BUDGETED = [name for name in ae.available_methods() if name not in ("vanilla", "vtw")]  # VTW's go in steps of a layer
ELSEWHERE = ("other_question", "cdpruner", "trim", "mmtok", "evs", "vidcom2")
"""What needs more than pictures and tokens: another question, which the wrappers ask first, the question, a video."""
IN_THE_ENGINE = [name for name in BUDGETED if name not in ELSEWHERE]
MIXED = [(5, 1, 7, 1), (3, 2, 12, 2), (9, 0, 4, 3), (2, 3, 3, 4)]


def audit(name: str, images: int, **options: Any) -> ae.Audit:
    return ae.audit(ae.get_method(name)(**options), **LLAVA_7B, vision_tokens=576 * images, images=images)


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("name", BUDGETED)
def test_a_budget_is_per_image_by_default(name: str, images: int) -> None:
    one, several = audit(name, 1, budget=64, count="leaving"), audit(name, images, budget=64, count="leaving")
    assert several.leaving_per_image == pytest.approx(one.leaving, abs=0.5)
    assert several.entering_per_image == pytest.approx(one.entering, abs=0.5)
    assert several.leaving == pytest.approx(64 * images, abs=images)  # official schedules are up to a token off
    assert several == audit(name, images, budget=64, count="leaving", per="image")


@pytest.mark.parametrize(
    ("images", "count"), [(1, "leaving"), (2, "leaving"), (3, "leaving"), (1, "entering"), (2, "entering")]
)
@pytest.mark.parametrize("name", BUDGETED)
def test_a_budget_may_be_per_prompt(name: str, images: int, count: str) -> None:
    found = audit(name, images, budget=200, count=count, per="prompt")
    assert getattr(found, count) == pytest.approx(200, abs=0.5)


@pytest.mark.parametrize(
    ("name", "images", "schedule"),
    [
        ("adaptinfer", 2, "1:266,10:54,20:6"),
        ("fastv", 3, "1:141"),
        ("tome", 3, "before:192"),
        ("downsample", 2, "before:128"),
    ],
)
def test_several_images_have_the_schedule_of_one_so_many_times(name: str, images: int, schedule: str) -> None:
    assert audit(name, images, budget=64).schedule == schedule


def test_an_explicit_schedule_is_the_prompts_and_a_share_is_of_its_tokens() -> None:
    assert audit("adaptinfer", 3, schedule="1:133,10:27,20:3").schedule == "1:133,10:27,20:3"
    assert audit("fastv", 2, schedule="1:0.5").schedule == "1:576"


def test_images_share_a_budget_and_the_first_get_what_is_left_over() -> None:
    method = ae.get_method("downsample")(budget=64, per="prompt")
    assert [method.image_budgets([576] * images) for images in (0, 1, 2, 3)] == [[], [64], [32, 32], [22, 21, 21]]
    with pytest.raises(ValueError, match="budget=2 per prompt is less than a token for each of its 3 images"):
        ae.get_method("tome")(budget=2, per="prompt").image_budgets([576] * 3)


def test_a_prompt_whose_images_leave_no_room_names_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"a prompt of 4 images: AdaptInfer .* 64; .*; or count the budget per=image"):
        audit("adaptinfer", 4, budget=64, per="prompt")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        *((name, {"budget": 64, "per": "sample"}, "per='sample': a budget is for each image or") for name in BUDGETED),
        ("fastv", {"schedule": "1:9", "per": "prompt"}, "per= goes with budget="),
        ("pdrop", {"schedule": "original", "count": "entering"}, "count= goes with budget="),
        ("fastv", {"budget": True}, "budget=True: FastV takes a number"),
        ("tome", {"budget": True}, "budget=True: ToMe takes a number"),
        ("random", {"budget": float("nan")}, "budget=nan: Random takes a number"),
        ("adaptinfer", {"budget": "64"}, "budget='64': AdaptInfer takes a number"),
    ],
)
def test_budgets_that_cannot_be_meant(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ae.get_method(name)(**options)


def test_equal_methods_are_equal_however_they_are_written() -> None:
    pdrop, adaptinfer = ae.get_method("pdrop"), ae.get_method("adaptinfer")
    assert pdrop(schedule="original") == pdrop(schedule="7:0.50, 15:0.25, 23:0.125")
    assert adaptinfer(budget=64, layers="2, 12,22") == adaptinfer(budget=64.0, layers="2,12,22")


# In the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["image", "prompt"])
@pytest.mark.parametrize("name", IN_THE_ENGINE)
@torch.no_grad()
def test_the_trace_says_what_is_planned_for_each_prompt(name: str, per: str) -> None:
    method = ae.get_method(name)(budget=28, per=per, count="leaving")
    inputs = batch([prompt(5, images, 7, images) for images in (1, 0, 2, 3)])
    model = llava()
    with ae.pruned(model, method) as trace:
        model(**inputs)
    assert trace.images == [1, 0, 2, 3]
    for images, entering, schedule in zip(trace.images, trace.entering.tolist(), trace.schedules, strict=True):
        if images == 0:
            assert (entering, schedule) == ([0] * 8, "no image")
            continue
        assert entering == method.entering(8, IMAGE_TOKENS * images, images)
        assert schedule == method.describe(8, IMAGE_TOKENS * images, images)
        leaving = sum([*entering[1:], entering[-1]]) / 8
        times = images if per == "image" else 1
        assert leaving / times == pytest.approx(28, abs=0.5)


@pytest.mark.parametrize("per", ["image", "prompt"])
@pytest.mark.parametrize("name", IN_THE_ENGINE)
def test_a_batch_of_prompts_with_other_numbers_of_images_equals_them_one_by_one(name: str, per: str) -> None:
    check_batch_equals_singles(llava(), ae.get_method(name)(budget=28, per=per), MIXED)


@pytest.mark.parametrize("name", ["tome", "downsample", "fastv"])
def test_beams_of_prompts_that_share_a_budget(name: str) -> None:
    model, method = llava(), ae.get_method(name)(budget=28, per="prompt")
    singles = [prompt(*facts) for facts in MIXED]
    together, _, _ = answers(model, method, batch(singles), num_beams=3)
    for row, single in enumerate(singles):
        assert together[row].tolist() == answers(model, method, single, num_beams=3)[0][0].tolist()


@pytest.mark.parametrize("proportional", [True, False])
@torch.no_grad()
def test_merging_per_prompt_is_merging_each_image_to_its_share(proportional: bool) -> None:
    model, inputs = llava(), batch([prompt(5, 1, 7, 1), prompt(3, 2, 7, 2)])
    tome = ae.get_method("tome")
    with ae.pruned(model, tome(budget=40, per="prompt", proportional=proportional)) as together:
        logits = model(**inputs).logits[:, -1]
    assert together.assign is not None
    for row, share in ((0, 40), (1, 20)):
        with ae.pruned(model, tome(budget=share, proportional=proportional)) as trace:
            alone = model(**inputs).logits[row, -1]
        assert torch.allclose(logits[row], alone, atol=1e-4)
        own = slice(0, 1) if row == 0 else slice(1, 3)
        assert trace.assign is not None
        assert torch.equal(together.assign[own], trace.assign[own])


def test_images_whose_prompts_are_not_known_are_not_merged_per_prompt() -> None:
    model, method = llava(), ae.get_method("tome")(budget=40, per="prompt")
    pixels = prompt(5, 2, 7, 1)["pixel_values"]
    with ae.pruned(model, method), pytest.raises(ValueError, match="not known which belong together"):
        model.get_image_features(pixel_values=pixels)
    with pytest.raises(ValueError, match="knows no prompts"), ae.pruned(model.model.vision_tower, method):
        pass


def test_images_of_another_size_are_not_merged_to_another_count() -> None:
    tower = llava().model.vision_tower
    with ae.pruned(tower, ae.get_method("tome")(budget=40)), pytest.raises(ValueError, match="images of 144 tokens"):
        tower(torch.rand(1, 3, 48, 48), interpolate_pos_encoding=True)


@torch.no_grad()
def test_side_by_side_images_are_counted_by_their_size_and_by_runs_in_a_mask() -> None:
    method, inputs = ae.get_method("fastv")(budget=24), prompt(4, 1, 5, 1)
    ids = inputs["input_ids"]
    twice = torch.cat([ids[:, : 4 + IMAGE_TOKENS], ids[:, 4:]], 1)  # no text between the two
    model, pixels = llava(), inputs["pixel_values"].repeat(2, 1, 1, 1)
    with ae.pruned(model, method) as trace:
        model(input_ids=twice, pixel_values=pixels)
    assert (trace.images, trace.schedules) == ([2], [method.describe(8, 2 * IMAGE_TOKENS, 2)])
    mask = torch.zeros(2, 150, dtype=torch.bool)
    mask[0, 5:69] = mask[0, 70:134] = True
    mask[1, 5:133] = True
    embeds = torch.randn(2, 150, 32, generator=torch.Generator().manual_seed(1))
    bare = decoder("llama")
    with ae.pruned(bare, method, vision_mask=mask) as trace:
        bare(inputs_embeds=embeds)
    assert trace.images == [2, 1]
    assert trace.schedules == [method.describe(8, 128, 2), method.describe(8, 128, 1)]


@torch.no_grad()
def test_an_unpruned_model_and_tiles_are_counted_too() -> None:
    model = internvl()
    with ae.pruned(model, ae.get_method("vanilla")()) as trace:
        model(**batch([prompt(5, 2, 7, 1), prompt(5, 0, 7, 1)]))
    assert (trace.images, trace.schedules) == ([2, 0], ["none", "no image"])


@torch.no_grad()
def test_a_schedule_with_more_tokens_than_there_are_says_so_once() -> None:
    said: list[str] = []
    listening = logger.add(said.append, level="WARNING")
    model, method = llava(), ae.get_method("fastv")(schedule="1:101")
    for images, schedule in ((1, "1:64"), (2, "1:101"), (1, "1:64")):  # two images have enough of them
        with ae.pruned(model, method) as trace:
            model(**prompt(5, images, 7, 1))
        assert trace.schedules == [schedule]
    logger.remove(listening)
    assert len(said) == 1
    assert "'1:101' keeps 101 vision tokens after layer 1, and only 64 of a prompt's 64 are left there" in said[0]
    with pytest.raises(ValueError, match="only 64 of a prompt's 64 are left there"):
        ae.audit(method, num_layers=8, hidden_size=8, intermediate_size=8, vision_tokens=64, text_tokens=9)


# Inside lmms-eval ----------------------------------------------------------------------------------------------------


def stages(cost: Cost) -> str:
    """The schedule that the traced tokens show; of a method that merges nothing."""
    return ",".join(f"{i}:{after}" for i, (before, after) in enumerate(pairwise(cost.entering)) if before != after)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight layers, 36 tokens per image; config.json does not say how many, as older ones do not."""
    folder = save_tiny_llava(tmp_path_factory.mktemp("tiny"), layers=8)
    path = folder / "config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    del written["image_seq_length"]
    path.write_text(json.dumps(written), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("adaptinfer", {"budget": 16}),
        ("fastv", {"budget": 16, "count": "entering"}),
        ("pdrop", {"budget": 16}),
        ("pdrop", {"schedule": "1:0.4,3:0.2"}),
        ("random", {"budget": 16, "per": "prompt"}),
        ("fastv", {"schedule": "1:50"}),
        ("tome", {"budget": 18}),
        ("downsample", {"budget": 15, "per": "prompt"}),
    ],
)
def test_what_is_planned_recorded_and_traced_is_one(checkpoint: Path, method: str, options: dict[str, Any]) -> None:
    written = "".join(f",{key}={str(value).replace(',', '/')}" for key, value in options.items())
    model = load_wrapper(checkpoint, "llava", method, written)
    assert model.model.config.image_seq_length == 576  # transformers' default, which is not true
    pictures = [Part(Image.new("RGB", (24, 24), colour)) for colour in ("red", "green", "blue")]
    counts = [1, 2, 0, 3]
    asked = model.encode([model.prompt([("user", [*pictures[:count], "Is it red?"])]) for count in counts])
    costs = [answer.cost for answer in model.answer(asked, Generation.read({"max_new_tokens": 2}))]
    entry = {"name": method, **options}
    for images, cost in zip(counts, costs, strict=True):
        assert (cost.images, cost.vision_tokens) == (images, 36 * images)
        if images == 0:
            assert (cost.schedule, sum(cost.entering)) == ("no image", 0)
            continue
        traced = f"before:{cost.entering[0]}" if method in ("tome", "downsample") else stages(cost)
        assert cost.schedule == (traced or "1:36")  # of the schedule that keeps all of one image
        methods = f"methods=[{json.dumps(entry)}]"
        config = load_config("mini", [f"pretrained={checkpoint}", methods, f"images={images}", "budgets=16"])
        (planned,) = plan(config)
        if planned.audit is None:
            assert "only 36 of a prompt's 36 are left" in planned.reason
            continue
        assert planned.audit.schedule == cost.schedule
        assert planned.audit.entering == pytest.approx(sum(cost.entering) / 8)
    audit = model.audit()
    assert audit["images"] == 6 / 4
    assert set(audit["schedule"].split(" | ")) == {cost.schedule for cost in costs}
    assert audit["entering_per_image"] == pytest.approx(audit["entering"] * 4 / 6)
    assert audit["leaving_per_image"] == pytest.approx(audit["leaving"] * 4 / 6)


def test_the_audit_of_prompts_without_images_has_nothing_per_image(checkpoint: Path) -> None:
    model = load_wrapper(checkpoint, "llava", "fastv", ",budget=16")
    model.answer(model.encode([model.prompt([("user", ["Is it red?"])])]), Generation.read({"max_new_tokens": 2}))
    assert model.audit()["images"] == 0
    assert not any(key.endswith("per_image") for key in model.audit())


def test_merged_tokens_of_several_images_are_numbered_on() -> None:
    """With a budget per prompt, images have unequal numbers of them."""
    trace = ae.Trace(assign=torch.tensor([[0, 1, 2, 1, 3], [0, 1, 1, 2, 2], [0, 1, 1, 1, 1]]))
    (row,) = kept_tokens(trace, torch.ones(1, 12, dtype=torch.bool), [3])
    merged = np.frombuffer(zlib.decompress(base64.b64decode(row["assign"])), "<u2")
    assert merged.tolist() == [0, 1, 0, 2, 3, 3, 4, 4, 5, 5, 5, 5]


@pytest.mark.parametrize(
    ("name", "options"), [("adaptinfer", {"layers": "4,5,6"}), ("fastv", {"k": 4}), ("downsample", {}), ("tome", {})]
)
@torch.no_grad()
def test_a_budget_per_prompt_may_be_more_than_an_image_has(name: str, options: dict[str, Any]) -> None:
    model, method = llava(), ae.get_method(name)(budget=IMAGE_TOKENS + 6, per="prompt", **options)
    with ae.pruned(model, method) as trace:
        model(**prompt(5, 2, 7, 1))
    leaving = torch.cat([trace.entering[0, 1:], trace.entering[0, -1:]]).float().mean()
    assert leaving == pytest.approx(IMAGE_TOKENS + 6, abs=0.5)


@torch.no_grad()
def test_images_of_embeddings_are_counted_as_those_of_tokens() -> None:
    model, inputs = internvl(), prompt(5, 1, 7, 1)
    image = inputs["input_ids"] == model.config.image_token_id
    ids = torch.cat(
        [inputs["input_ids"][:, :5], *[inputs["input_ids"][image][None]] * 2, inputs["input_ids"][:, -7:]], 1
    )
    mask, embeds = ids == model.config.image_token_id, torch.randn(1, ids.shape[1], 32)
    with ae.pruned(model, ae.get_method("downsample")(budget=20), vision_mask=mask) as trace:
        model(inputs_embeds=embeds)
    assert trace.images == [2]  # side by side, as tiles are
    assert trace.entering.tolist() == [[40] * 8]
