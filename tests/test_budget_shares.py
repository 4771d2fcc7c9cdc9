"""A budget below 1 is a share of each prompt's vision tokens: solved for its number of them, met to half a token."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import pytest
import torch
from test_batches import check_batch_equals_singles
from test_budget_per import BUDGETED, IN_THE_ENGINE, MIXED
from test_qwen2_vl import PROMPTS, answered, tiny
from tiny_models import IMAGE_TOKENS, batch, llava, prompt

import adaptinfer_eval as ae
from adaptinfer_eval.methods.schedule import Schedule

LAYER_METHODS = [name for name in BUDGETED if issubclass(ae.get_method(name), ae.LayerMethod)]
SHAPE = {"num_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "text_tokens": 66}


def audit(name: str, vision_tokens: int, images: int = 1, **options: Any) -> ae.Audit:
    return ae.audit(ae.get_method(name)(**options), **SHAPE, vision_tokens=vision_tokens, images=images)


@pytest.mark.parametrize("count", ["leaving", "entering"])
@pytest.mark.parametrize("name", LAYER_METHODS)
def test_a_share_is_met_whatever_number_of_tokens_a_prompt_has(name: str, count: str) -> None:
    for tokens in random.Random(0).sample(range(100, 16000), 25):
        for share in (0.25, 0.11):
            found = audit(name, tokens, budget=share, count=count)
            assert getattr(found, count) == pytest.approx(share * tokens, abs=0.5 + 1e-6)


@pytest.mark.parametrize("name", LAYER_METHODS)
@pytest.mark.parametrize(("tokens", "images"), [(576, 1), (2880, 1), (900, 3)])
def test_a_share_is_what_so_many_tokens_per_prompt_are(name: str, tokens: int, images: int) -> None:
    """Also where these have an official schedule, which 64 of 576 have."""
    for share in (1 / 9, 0.2):
        one = audit(name, tokens, images, budget=share)
        assert one == audit(name, tokens, images, budget=round(share * tokens, 6), per="prompt")
    assert audit("adaptinfer", 576, budget=1 / 9).schedule == "1:133,10:27,20:3"


@pytest.mark.parametrize("name", ["adaptinfer", "fastv", "pdrop", "sparsevlm", "tome"])
@pytest.mark.parametrize("budget", [640, 320, 160])
def test_the_papers_budgets_at_2880_tokens(name: str, budget: int) -> None:
    """LLaVA-NeXT, five times 576."""
    if (name, budget) == ("sparsevlm", 160):
        with pytest.raises(ValueError, match=r"reaches 192 to .* not 160; schedule='1:130,6:59,15:33' can"):
            audit(name, 2880, budget=budget)
    else:
        assert audit(name, 2880, budget=budget).leaving == pytest.approx(budget, abs=0.5)


def test_an_image_keeps_its_share_rounded_and_a_token_at_least() -> None:
    method = ae.get_method("downsample")(budget=0.25)
    assert method.image_budgets([576, 2880, 10, 2, 1]) == [144, 720, 3, 1, 1]
    assert ae.get_method("tome")(budget=0.07).image_budgets([50, 300]) == [4, 21]  # 3.5 and 21, in floats a bit more
    assert audit("downsample", 3 * 576, images=3, budget=0.25).schedule == "before:432"


def test_one_is_a_token_and_less_is_a_share() -> None:
    assert audit("downsample", 576, budget=1).schedule == "before:1"
    assert audit("fastv", 2880, budget=0.999).leaving == pytest.approx(0.999 * 2880, abs=0.5)
    for budget, keep in ((1, 1), (0.5, 288)):
        assert ae.get_method("tome")(budget=budget).image_budget(576) == keep


def test_a_share_that_cannot_be_reached_names_a_schedule_in_shares_that_can() -> None:
    for name, budget in (("adaptinfer", 0.6), ("sparsevlm", 0.05), ("fastv", 0.02), ("pdrop", 0.02)):
        for tokens in (377, 2880, 9999):
            with pytest.raises(ValueError, match=rf"^budget={budget} of {tokens} vision tokens: .* can$") as error:
                audit(name, tokens, budget=budget)
            (schedule,) = re.findall("schedule='(.+)' can", str(error.value))
            assert all(isinstance(stage.keep, float) for stage in Schedule.parse(schedule))
            for other in (tokens, 3 * tokens):
                reached = audit(name, other, schedule=schedule).leaving
                assert math.isclose(reached, budget * other, abs_tol=0.5 if other == tokens else 0.01 * other)


@pytest.mark.parametrize("vision_tokens", [1, 7, 64, 576, 999, 1000, 16000])
def test_a_schedule_in_shares_keeps_the_same_numbers(vision_tokens: int) -> None:
    for keep in {0, 1, vision_tokens // 3, max(vision_tokens - 2, 0)}:
        (stage,) = Schedule.parse(f"1:{keep}").in_shares(vision_tokens)
        assert int(vision_tokens * stage.keep) == keep or keep >= vision_tokens
        assert Schedule.parse(str(Schedule([stage]))) == (stage,)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fastv", {"budget": 0.25, "per": "prompt"}, r"per=prompt goes with a number .* leave per out"),
        ("tome", {"budget": 0.25, "per": "prompt"}, r"per=prompt goes with a number .* leave per out"),
        ("downsample", {"budget": 2.5}, "a whole number of tokens, or a share below 1: 25 or 0.25"),
        ("adaptinfer", {"budget": -0.25}, "above 0, or a share: 25 tokens, or 0.25 of all"),
        ("tome", {"budget": "0.25"}, "budget='0.25': ToMe takes a number"),
    ],
)
def test_shares_that_cannot_be_meant(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ae.get_method(name)(**options)


# In the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IN_THE_ENGINE)
@torch.no_grad()
def test_the_trace_says_what_is_planned_for_each_prompt(name: str) -> None:
    model, method = llava(), ae.get_method(name)(budget=0.4, count="leaving")
    with ae.pruned(model, method) as trace:
        model(**batch([prompt(5, images, 7, images) for images in (1, 0, 3)]))
    for images, entering, schedule in zip(trace.images, trace.entering.tolist(), trace.schedules, strict=True):
        if not images:
            continue
        assert entering == method.entering(8, IMAGE_TOKENS * images, images)
        assert schedule == method.describe(8, IMAGE_TOKENS * images, images)
        assert sum([*entering[1:], entering[-1]]) / 8 == pytest.approx(0.4 * IMAGE_TOKENS * images, abs=0.5 * images)


@pytest.mark.parametrize("name", ["adaptinfer", "tome"])
def test_a_batch_of_prompts_with_other_numbers_of_images_equals_them_one_by_one(name: str) -> None:
    check_batch_equals_singles(llava(), ae.get_method(name)(budget=0.3), MIXED)


@pytest.mark.parametrize("name", ["adaptinfer", "fastv", "pdrop", "random"])
def test_of_images_of_any_size_and_videos_each_prompt_keeps_its_share(name: str) -> None:
    method = ae.get_method(name)(budget=0.4, **({"k": 1} if name == "fastv" else {}))
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[3]]
    _, trace = answered(tiny("qwen2_vl"), method, prompts)
    entering = trace.entering.float()
    leaving = torch.cat([entering[:, 1:], entering[:, -1:]], 1).mean(1)
    assert leaving.tolist() == pytest.approx([0.4 * prompt.vision for prompt in prompts], abs=0.5)
