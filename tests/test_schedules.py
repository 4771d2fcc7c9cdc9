"""Schedules, budgets and costs: the numbers of the papers, and errors that name the remedy."""

from __future__ import annotations

import math
import re
from itertools import product
from typing import Any

import pytest
import torch
from tiny_models import METHODS

import adaptinfer_eval as ae
from adaptinfer_eval.methods.budget import Candidate, solve
from adaptinfer_eval.methods.schedule import Count, Schedule, Stage, entering_counts
from adaptinfer_eval.methods.tower import Images

LLAVA_7B = {"num_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "vision_tokens": 576, "text_tokens": 66}
LLAVA_13B = {**LLAVA_7B, "num_layers": 40, "hidden_size": 5120, "intermediate_size": 13824}


def audit(name: str, options: dict[str, Any], shape: dict[str, int] | None = None) -> ae.Audit:
    return ae.audit(ae.get_method(name)(**options), **(shape or LLAVA_7B))


# Entering, leaving and multiply-adds (T) as worked out from the official schedules, prompt of 66 text tokens.
@pytest.mark.parametrize(
    ("name", "options", "schedule", "entering", "leaving", "tera"),
    [
        ("vanilla", {}, "none", 576, 576, 4.2656),
        ("adaptinfer", {"budget": 128}, "1:290,10:72,20:18", 146.25, 128.81, 1.3928),
        ("adaptinfer", {"budget": 64}, "1:133,10:27,20:3", 82.88, 64.97, 0.9749),
        ("adaptinfer", {"budget": 48}, "1:80,10:24,20:2", 66.69, 48.75, 0.8687),
        ("adaptinfer", {"budget": 32}, "1:40,10:12,20:0", 51.00, 33.00, 0.7662),
        ("sparsevlm", {"budget": 192}, "2:300,6:200,15:110", 206.50, 192.03, 1.7890),
        ("sparsevlm", {"budget": 128}, "2:303,6:110,15:36", 145.41, 128.62, 1.3878),
        ("sparsevlm", {"budget": 96}, "2:238,6:48,15:26", 114.09, 96.94, 1.1819),
        ("sparsevlm", {"budget": 64}, "2:66,6:30,15:17", 82.25, 64.81, 0.9725),
        ("sparsevlm", {"budget": 192, "variant": "plus"}, "2:300,6:200,15:118", 206.75, 192.44, 1.7905),
        ("sparsevlm", {"budget": 128, "variant": "plus"}, "2:238,6:108,15:60", 144.12, 128.00, 1.3782),
        ("sparsevlm", {"budget": 96, "variant": "plus"}, "2:246,6:54,15:28", 113.94, 96.81, 1.1808),
        ("sparsevlm", {"budget": 64, "variant": "plus"}, "2:66,6:34,15:20", 81.81, 64.44, 0.9696),
        ("pdrop", {"schedule": "original"}, "7:288,15:144,23:72", 270.00, 254.25, 2.2153),
        ("pdrop", {"budget": 192}, "1:337,7:197,15:115", 205.94, 191.53, 1.7846),
        ("pdrop", {"budget": 128}, "1:265,7:122,15:56", 144.19, 127.94, 1.3776),
        ("pdrop", {"budget": 64}, "1:157,7:43,15:11", 81.69, 64.03, 0.9672),
        ("pdrop", {"budget": 48}, "1:117,7:23,15:4", 65.69, 47.81, 0.8624),
        ("pdrop", {"budget": 32}, "1:65,7:7,15:0", 49.94, 31.94, 0.7593),
        ("pdrop", {"budget": 64, "count": "entering"}, "1:111,7:21,15:4", 64.06, 46.19, 0.8517),
        ("fastv", {"schedule": "1:288"}, "1:288", 306.00, 297.00, 2.4466),
        ("fastv", {"schedule": "2:288"}, "2:288", 315.00, 306.00, 2.5073),
        ("fastv", {"budget": 192}, "1:180", 204.75, 192.38, 1.775),
        ("fastv", {"budget": 128}, "1:114", 142.88, 128.44, 1.367),
        ("fastv", {"budget": 64}, "1:47", 80.06, 63.53, 0.956),
        ("fastv", {"budget": 48}, "1:31", 65.06, 48.03, 0.858),
        ("fastv", {"budget": 32}, "1:14", 49.12, 31.56, 0.754),
        ("fastv", {"budget": 64, "count": "entering"}, "1:30", 64.12, 47.06, 0.852),
        ("fastv", {"budget": 64, "count": "entering", "k": 3}, "2:11", 63.97, 46.31, 0.8532),
        ("tome", {"budget": 192}, "before:192", 192, 192, 1.6883),
        ("tome", {"budget": 64}, "before:64", 64, 64, 0.8463),
        ("downsample", {"budget": 32}, "before:32", 32, 32, 0.6372),
    ],
)
def test_published_budgets(
    name: str, options: dict[str, Any], schedule: str, entering: float, leaving: float, tera: float
) -> None:
    cost = audit(name, options)
    assert cost.schedule == schedule
    assert cost.entering == pytest.approx(entering, abs=0.006)
    assert cost.leaving == pytest.approx(leaving, abs=0.006)
    assert cost.macs / 1e12 == pytest.approx(tera, abs=6e-4)
    assert cost.flops == 2 * cost.macs


@pytest.mark.parametrize(
    ("budget", "entering", "leaving", "tera"), [(128, 142.40, 128.75, 2.671), (64, 78.92, 64.65, 1.854)]
)
def test_adaptinfer_on_40_layers(budget: int, entering: float, leaving: float, tera: float) -> None:
    cost = audit("adaptinfer", {"budget": budget}, LLAVA_13B)
    assert (cost.entering, cost.leaving) == pytest.approx((entering, leaving), abs=0.006)
    assert cost.macs / 1e12 == pytest.approx(tera, abs=6e-4)


@pytest.mark.parametrize("count", ["leaving", "entering"])
@pytest.mark.parametrize("num_layers", [16, 24, 28, 32, 36, 40, 80])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adaptinfer", {}),
        ("random", {}),
        ("fastv", {"k": 1}),
        ("pdrop", {}),
        ("sparsevlm", {}),
        ("sparsevlm", {"variant": "plus"}),
    ],
)
def test_other_budgets_and_depths_are_met_to_half_a_token(
    name: str, options: dict[str, Any], num_layers: int, count: str
) -> None:
    for budget in (100, 150, 211.5):
        cost = audit(name, {"budget": budget, "count": count, **options}, {**LLAVA_7B, "num_layers": num_layers})
        assert math.isclose(getattr(cost, count), budget, abs_tol=0.5), cost


@pytest.mark.parametrize(
    ("name", "options"),
    [("adaptinfer", {}), ("fastv", {}), ("pdrop", {}), ("sparsevlm", {}), ("sparsevlm", {"variant": "plus"})],
)
def test_a_budget_is_met_or_a_schedule_that_meets_it_is_named(name: str, options: dict[str, Any]) -> None:
    for layers, tokens, budget, count in product((8, 24, 28, 36), (36, 576), (6, 64, 211.5), ("leaving", "entering")):
        shape = {**LLAVA_7B, "num_layers": layers, "vision_tokens": tokens}
        asked, refused = {"budget": budget, "count": count}, ""
        try:
            audit(name, asked | options, shape)
        except ValueError as error:
            refused = str(error)
        if refused:
            assert ("use vanilla" in refused) == (budget >= tokens)
            # What layer 0 alone computes is the least that any schedule can.
            assert ("no stage is early enough" in refused) == (count == "entering" and budget < tokens / layers)
        named = re.search("schedule='(.+)' can", refused)
        if named or not refused:
            cost = audit(name, ({"schedule": named[1]} if named else asked) | options, shape)
            assert math.isclose(getattr(cost, count), budget, abs_tol=0.5), cost


def test_a_budget_is_solved_without_a_method() -> None:
    """The nearest candidate, whatever made it; else one that starts earlier, as late as it can be."""

    def starting_after(layer: int) -> list[list[Candidate]]:
        schedules = [(keep, Schedule([Stage(layer, keep)])) for keep in range(101)]
        return [[(schedule, entering_counts(schedule, [keep], 100, 10)) for keep, schedule in schedules]]

    cases: list[tuple[float, Count, int]] = [(55.4, "leaving", 44), (64, "entering", 49), (93, "entering", 90)]
    for budget, count, keep in cases:
        assert solve("own", budget, count, starting_after(2), starting_after) == (Stage(2, keep),)
    with pytest.raises(ValueError, match=r"^own pruning after layers \[7\] of 10 reaches .* schedule='4:10' can"):
        solve("own", 46, "leaving", starting_after(7), starting_after)


def test_layers_scale_with_depth_unless_given() -> None:
    method = ae.get_method("adaptinfer")
    assert [stage.layer for stage in method(budget=64).plan(28, 576)] == [1, 9, 18]
    assert [stage.layer for stage in method(budget=64, layers="2,12,22").plan(32, 576)] == [2, 12, 22]
    assert [stage.layer for stage in method(budget=64, layers="0,9,18,27").plan(32, 576)] == [0, 9, 18, 27]


def test_an_official_schedule_is_not_stretched_over_larger_images() -> None:
    cost = audit("adaptinfer", {"budget": 64}, {**LLAVA_7B, "vision_tokens": 1152})
    assert cost.leaving == pytest.approx(64, abs=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1-133", "cannot be read"),
        ("1:133,x:3", "cannot be read"),
        ("1:133,1:20", "must increase"),
        ("10:27,1:133", "must increase"),
        ("-1:3", "must not be negative"),
        ("1:1.5", "must be below 1"),
        ("", "cannot be read"),
    ],
)
def test_schedules_that_cannot_be_meant(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ae.get_method("adaptinfer")(schedule=text)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fastv", {"budget": 32, "count": "entering"}, r"reaches 36 to .*schedule='0:14' can"),
        (
            "pdrop",
            {"budget": 128, "count": "entering", "layers": "7,15,23"},
            r"reaches 144 to .*schedule='6:0\.\d+,15:.* can",
        ),
        ("sparsevlm", {"budget": 32}, r"reaches .*schedule='1:\d+,6:\d+,15:\d+' can"),
        ("adaptinfer", {"budget": 10, "count": "entering"}, "prunes before the language model"),
        ("adaptinfer", {"budget": 600}, "use vanilla"),
        ("tome", {"budget": 577}, "use vanilla"),
    ],
)
def test_unreachable_budgets_name_a_schedule_that_can(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        audit(name, options)
    if "schedule='" in str(error.value):
        schedule = str(error.value).split("schedule='")[1].split("'")[0]
        reached = audit(name, {"schedule": schedule})
        assert getattr(reached, options.get("count", "leaving")) == pytest.approx(options["budget"], abs=0.5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adaptinfer", {}, "either budget=64 or schedule="),
        ("adaptinfer", {"budget": 64, "schedule": "1:3"}, "not both"),
        ("adaptinfer", {"budget": 64, "count": "left"}, "leaving or entering"),
        ("adaptinfer", {"budget": 64, "variant": "Paper"}, "reference and paper"),
        ("adaptinfer", {"schedule": "1:3", "layers": "1"}, "names its layers itself"),
        ("fastv", {"budget": 64, "k": 0}, "at least 1"),
        ("fastv", {"budget": 64, "layers": "1"}, "give k="),
        ("sparsevlm", {"budget": 64, "variant": "v2"}, "v1 and plus"),
        ("sparsevlm", {"budget": 64, "priority_heads": 0}, "at least one head"),
        ("tome", {"budget": 0}, "above 0"),
        ("downsample", {"budget": 2.5}, "whole number"),
        ("fastv", {"budget": True}, "budget=True: FastV takes a number or None"),
        ("fastv", {"budget": "64"}, "budget='64': FastV takes a number or None"),
        ("pdrop", {"budget": float("nan")}, "budget=nan: PDrop takes a number"),
        ("fastv", {"budget": 64, "k": 2.5}, "k=2.5: FastV takes a whole number"),
        ("sparsevlm", {"budget": 64, "priority_heads": True}, "priority_heads=True: SparseVLM takes a whole number"),
        ("random", {"budget": 64, "seed": None}, "seed=None: Random takes a whole number"),
        ("tome", {"budget": 64, "proportional": "no"}, "proportional='no': ToMe takes true or false"),
        ("adaptinfer", {"schedule": 107}, "schedule=107: AdaptInfer takes a text or None"),
        ("adaptinfer", {"budget": 64, "layers": True}, "layers=True: AdaptInfer takes a text or None"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ae.get_method(name)(**options)


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert ae.get_method("fastv")(budget=64, k=2.0) == ae.get_method("fastv")(budget=64, k=2)
    assert isinstance(ae.get_method("tome")(budget=64.0).budget, int)


def test_lookup() -> None:
    known = {"adaptinfer", "fastv", "tome", "pdrop", "sparsevlm", "vanilla", "random", "downsample", "foreground"}
    known |= {"fastervlm", "divprune"}
    # Another question is asked by the wrappers, not by the engine: tests/test_other_question.py.
    assert {*known, "other_question"} <= set(ae.available_methods())
    assert known == {name for name, _ in METHODS}, "every shipped method is crossed with every guarantee"
    assert ae.get_method("adaptinfer").__name__ == "AdaptInfer"
    with pytest.raises(ValueError, match="did you mean 'adaptinfer'"):
        ae.get_method("adaptinfer_v2")
    with pytest.raises(ValueError, match="did you mean 'fastv'"):
        ae.get_method("fast_v")


def test_downsampling_takes_a_uniform_grid() -> None:
    def chosen(grid: tuple[int, ...], budget: int) -> list[int]:
        tokens = torch.zeros(1, math.prod(grid), 0)
        images = Images(projected=tokens, hidden=tokens, cls=None, grid=grid, project=lambda rows: rows)
        places: list[int] = ae.get_method("downsample")(budget=budget).select(images, budget).index[0].tolist()
        return places

    lines = {1, 4, 7, 10, 13, 16, 19, 22}
    assert {place // 24 for place in chosen((24, 24), 64)} == {place % 24 for place in chosen((24, 24), 64)} == lines
    assert {place // 8 for place in chosen((32, 8), 16)} == {2, 6, 10, 14, 18, 22, 26, 30}
    assert {place % 8 for place in chosen((4, 8, 8), 16)} == {2, 6}, "frames are one below the other"
    for grid in ((24, 24), (6, 17), (1, 30), (3, 5, 4)):
        for budget in range(1, math.prod(grid) + 1):
            assert len(chosen(grid, budget)) == budget
            assert chosen(grid, budget) == sorted(set(chosen(grid, budget)))


def test_tome_spreads_its_merges() -> None:
    def merges(budget: int, layers: int) -> list[int]:
        return list(ae.get_method("tome")(budget=budget).tower_schedule(layers, 576))

    assert merges(128, 23) == [20] * 11 + [19] * 12
    assert merges(64, 23) == [23] * 6 + [22] * 17
    assert merges(32, 23) == [24] * 15 + [23] * 8
    assert merges(64, 4) == [160, 160, 128, 64], "a layer can merge half of what it gets"
    for budget in range(37, 577):
        left = 576
        for merge in merges(budget, 4):
            assert 0 <= merge <= left // 2
            left -= merge
        assert left == budget


@pytest.mark.parametrize("text", ["0:17%,9:60%,19:30%", "1:0.5%,2:99.9%", "3:0%", "0:12.5%"])
def test_shares_of_the_current_tokens_are_written_as_they_are_read(text: str) -> None:
    assert str(Schedule.parse(text)) == text


@pytest.mark.parametrize("text", ["0:100%", "0:-1%", "0:nan%", "0:x%", "0:%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Schedule.parse(text)


def test_shares_of_the_current_tokens_follow_each_other() -> None:
    method = ae.get_method("fastv")(schedule="2:50%")
    assert method.entering(8, 100) == [100] * 3 + [50] * 5
    stages = ae.get_method("pdrop")(schedule="0:50%,3:50%,5:0.1")  # of what is left, and of the prompt
    assert str(stages.resolved(8, 100)) == "0:50,3:25,5:10"
    assert stages.excess(100) == ""
    assert method.entering(8, 300, images=3) == [300] * 3 + [150] * 5  # of all images' tokens


@pytest.mark.parametrize(
    ("variant", "kept"), [("qwen2_vl", "0:238,9:142,19:42"), ("qwen2_vl_min1", "0:237,9:142,19:42")]
)
def test_the_published_versions_round_differently(variant: str, kept: str) -> None:
    method = ae.get_method("adaptinfer")(schedule="0:70%,9:60%,19:30%", variant=variant)
    assert method.describe(28, 340) == kept
    assert method.describe(28, 2) == ("0:1,9:0,19:0" if variant == "qwen2_vl" else "0:1,9:1,19:1")
