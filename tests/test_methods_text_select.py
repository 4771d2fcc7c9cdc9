"""Methods that read the question, or a video, before the language model: what they choose of given images.

CDPruner is compared with its authors' code (golden data); the others with slow oracles in float64, written from the
rules alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_checkpoint import save, tiny_clip
from golden_data import GOLDEN, index, tensors
from selection_oracles import WORDS, evs, hiprune, mmtok, vidcom2, vscan
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel

from adaptinfer_eval import get_method
from adaptinfer_eval.methods.clip_text import clip_text
from adaptinfer_eval.methods.question import without_instructions
from adaptinfer_eval.methods.tower import Images

SEEDS = ("0", "1")
CPU = torch.device("cpu")
CDPRUNER = [case for case in index("vision_index")["case_params"] if case.startswith("cdpruner")]


@pytest.fixture(scope="module")
def text_tower(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The golden data's CLIP as a checkpoint in a folder. Word `t7` is token 7; 98 begins and 99 ends a text."""
    model = tiny_clip(json.loads((GOLDEN / "clip_config.json").read_text()))
    golden = tensors("vision_cases")
    weights = {
        name.removeprefix("clip_text/"): value for name, value in golden.items() if name.startswith("clip_text/")
    }
    weights["visual_projection.weight"] = golden["visual_projection.weight"]
    weights |= tensors("clip_weights_fp16")
    loaded = model.load_state_dict(weights, strict=False)
    assert [name for name in loaded.missing_keys if "position_ids" not in name] == ["logit_scale"]
    return save(model, tmp_path_factory.mktemp("clip"))


def projector(hidden: Tensor) -> Tensor:
    """The golden data's, 32 to 384."""
    golden = tensors("vision_cases")
    first, second = ([golden[f"projector_mlp/{i}.{part}"] for part in ("weight", "bias")] for i in (0, 2))
    return F.linear(F.gelu(F.linear(hidden, *first)), *second)


def golden_images(text: str = "short") -> Images:
    """Of both seeds, as the golden CLIP sees them."""
    golden = tensors("vision_cases")
    hidden = torch.stack([golden[f"{seed}/tower/hidden"] for seed in SEEDS])
    asked = [golden[f"{seed}/text_ids_{text}"][1:-1] for seed in SEEDS]
    return Images(
        projected=projector(hidden[:, 1:]),
        hidden=hidden[:, 1:],
        cls=hidden[:, 0],
        grid=(24, 24),
        project=projector,
        questions=[" ".join(f"t{number}" for number in ids) for ids in asked],
    )


def random_images(seed: int = 0, grid: tuple[int, ...] = (5, 6), images: int = 3) -> Images:
    """With attention of layers 8 and 22 of 24, and questions of unequal length."""
    draw = torch.Generator().manual_seed(seed)
    tokens, words = math.prod(grid), torch.randn(300, 16, generator=draw)
    hidden = torch.randn(images, tokens, 12, generator=draw)
    weight = torch.randn(16, 12, generator=draw)

    def embed(texts: Sequence[str]) -> Tensor:
        return words[[ord(letter) for text in texts for letter in text]]  # a token for every letter

    return Images(
        projected=hidden @ weight.T,
        hidden=hidden,
        cls=None,
        grid=grid,
        project=lambda rows: rows @ weight.T,
        attention={layer: torch.rand(images, 4, tokens, generator=draw) for layer in (5, 22)},
        received={layer: torch.rand(images, 4, tokens, generator=draw) for layer in (8, 22)},
        questions=list(WORDS)[:images],
        embed=embed,
    )


def only(images: Images, number: int) -> Images:
    """One of them."""
    at = slice(number, number + 1)
    return replace(
        images,
        projected=images.projected[at],
        hidden=images.hidden[at],
        cls=None if images.cls is None else images.cls[at],
        attention={layer: rows[at] for layer, rows in images.attention.items()},
        received={layer: rows[at] for layer, rows in images.received.items()},
        questions=images.questions[at],
    )


# CDPruner and CLIP's text tower --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CDPRUNER)
def test_cdpruner_chooses_what_its_authors_code_chooses(case: str, text_tower: str) -> None:
    facts, golden = index("vision_index")["case_params"][case], tensors("vision_cases")
    method = get_method("cdpruner")
    kept = torch.stack([golden[f"{seed}/{case}/kept"] for seed in SEEDS])
    embeds = torch.stack([golden[f"{seed}/tower/image_embeds"] for seed in SEEDS])
    texts = [golden[f"{seed}/tower/text_embeds_{facts['text']}"] for seed in SEEDS]
    images = golden_images(facts["text"])
    assert torch.equal(method.choose(images.projected, embeds, texts, facts["count"]), kept)
    pruner = method(budget=facts["count"], text_tower=text_tower)
    assert torch.equal(pruner.select(images, facts["count"]).index, kept), "with the text tower"


@pytest.mark.parametrize("text", ["short", "long"])
def test_text_tower_embeds_as_clip_does(text: str, text_tower: str) -> None:
    golden, images, clip = tensors("vision_cases"), golden_images(text), clip_text(text_tower, CPU)
    embeds = clip.images(images, "CDPruner")
    for number, (seed, question) in enumerate(zip(SEEDS, images.questions, strict=True)):
        torch.testing.assert_close(clip.text(question), golden[f"{seed}/tower/text_embeds_{text}"], atol=2e-5, rtol=0)
        torch.testing.assert_close(embeds[number], golden[f"{seed}/tower/image_embeds"], atol=2e-5, rtol=0)
        assert len(clip.text(question, truncate=True)) == 1


def test_truncated_text_ends_with_the_end_token(text_tower: str) -> None:
    clip = clip_text(text_tower, CPU)
    long = golden_images("long").questions[0]
    cut = " ".join(long.split()[:75])
    assert torch.equal(clip.text(long, truncate=True), clip.text(cut))


def test_text_tower_that_cannot_be_loaded_is_named(text_tower: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"text_tower='.*nowhere' cannot be loaded .*: name a CLIP checkpoint"):
        clip_text(str(tmp_path / "nowhere"), CPU)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="it is a checkpoint of llama"):
        clip_text(str(tmp_path), CPU)


def test_text_tower_with_weights_missing_is_refused(text_tower: str, tmp_path: Path) -> None:
    model: Any = CLIPModel.from_pretrained(text_tower)
    model.save_pretrained(
        tmp_path, state_dict={k: v for k, v in model.state_dict().items() if k != "text_projection.weight"}
    )
    with pytest.raises(ValueError, match=r"it has no text_projection\.weight"):
        clip_text(str(tmp_path), CPU)


@pytest.mark.parametrize("name", ["cdpruner", "trim"])
def test_towers_that_are_not_the_text_towers_are_refused(name: str, text_tower: str) -> None:
    images, method = golden_images(), get_method(name)(budget=8, text_tower=text_tower)
    with pytest.raises(
        ValueError, match=r"no class token, 32 wide\) is not the one of .* use a method that needs none"
    ):
        method.select(replace(images, cls=None), 8)
    with pytest.raises(ValueError, match=r"tower \(31 wide\) is not the one of .* \(32 wide\)"):
        method.select(replace(images, hidden=images.hidden[..., 1:]), 8)


def test_cdpruner_never_keeps_a_token_twice() -> None:
    draw = torch.Generator().manual_seed(0)
    flat, embeds = torch.randn(2, 60, 5, generator=draw), torch.randn(2, 60, 8, generator=draw)
    text = [torch.randn(1, 8, generator=draw), torch.randn(3, 8, generator=draw)]
    choose = get_method("cdpruner").choose
    for images, like in ((flat, embeds), (flat[:, :1].expand(-1, 60, -1), embeds), (flat, torch.ones(2, 60, 8))):
        kept = choose(images, like, text, 40)  # of rank 5, of rank 1, and all as relevant
        assert [len(set(row)) for row in kept.tolist()] == [40, 40]
        assert torch.equal(choose(images, like, text, 60), torch.arange(60).expand(2, -1))


def test_questions_are_read_without_the_tasks_instruction(text_tower: str) -> None:
    assert without_instructions(next(iter(WORDS))) == "What colour is the red car?"
    options = "Which?\nA. one\nB. two"
    assert (
        without_instructions(f"{options}\nAnswer with the option's letter from the given choices directly.") == options
    )
    images, method = golden_images(), get_method("cdpruner")(budget=16, text_tower=text_tower)
    told = [f"{question}\nAnswer the question using a single word or phrase." for question in images.questions]
    assert torch.equal(method.select(replace(images, questions=told), 16).index, method.select(images, 16).index)


def test_trim_keeps_what_clip_finds_least_like_the_question(text_tower: str) -> None:
    images, count = golden_images(), 40
    clip = clip_text(text_tower, CPU)
    selection = get_method("trim")(budget=count, text_tower=text_tower).select(images, count)
    assert selection.made is not None
    for number, question in enumerate(images.questions):
        text = clip.text(question, truncate=True)[0].double()
        like = [float(patch @ text) for patch in clip.images(images, "TRIM")[number].double()]
        kept = sorted(sorted(range(576), key=lambda patch: like[patch])[: count - 1])
        assert selection.index[number].tolist() == [*kept, 576]
        others = images.hidden[number, [patch for patch in range(576) if patch not in kept]].double().mean(0)
        torch.testing.assert_close(selection.made[number], projector(others[None].float()), atol=1e-5, rtol=0)


# The others -----------------------------------------------------------------------------------------------------------

VIDEO = (4, 3, 5)
ORACLES: list[tuple[str, Callable[[Images, int], list[int]], tuple[int, ...], tuple[int, ...]]] = [
    ("mmtok", mmtok, (5, 6), (1, 7, 12)),
    ("hiprune", hiprune, (12, 14), (5, 30, 100, 160)),
    ("evs", evs, VIDEO, (15, 24, 59)),
]


@pytest.mark.parametrize(("name", "oracle", "grid", "counts"), ORACLES)
@pytest.mark.parametrize("seed", [0, 1])
def test_choice_is_that_of_the_rules(name: str, oracle: Any, grid: Any, counts: Any, seed: int) -> None:
    images = random_images(seed, grid)
    for count in counts:
        kept = get_method(name)(budget=count).select(images, count).index.tolist()
        assert kept == [oracle(only(images, number), count) for number in range(3)]


def test_vidcom2_keeps_what_the_authors_rounding_keeps_where_that_is_the_budget() -> None:
    method, met = get_method("vidcom2")(budget=0.25), 0
    for seed in range(6):
        images = random_images(seed, VIDEO)
        for count in (16, 20, 25, 31, 60):
            kept = method.select(images, count).index.tolist()
            for number in range(3):
                rounded = vidcom2(only(images, number), count)
                assert len(set(kept[number])) == count
                assert set(kept[number]) <= set(rounded) or set(rounded) <= set(kept[number])
                met += len(rounded) == count
    assert met > 30


@pytest.mark.parametrize("name", ["evs", "vidcom2"])
def test_videos_alone_have_frames_to_compare(name: str) -> None:
    method = get_method(name)(budget=12)
    with pytest.raises(ValueError, match="was given a still image"):
        method.select(random_images(), 12)
    with pytest.raises(ValueError, match="choose at least"):
        method.select(random_images(grid=VIDEO), 3)


def test_hiprune_looks_at_the_authors_layers() -> None:
    for read, depth, layers in ((22, 24, (8, 22)), (31, 32, (15, 31)), (2, 4, (1, 2)), (0, 1, (0, 0))):
        assert get_method("hiprune")(budget=8).look(read, depth).received == layers
    assert get_method("hiprune")(budget=8, object_layer=3).look(22, 24).received == (3, 22)


# VScan ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [9, 16, 48, 144])
def test_vscan_merges_into_what_it_sees_in_windows_and_in_the_whole(count: int) -> None:
    images = random_images(0, (12, 12))
    encoding = get_method("vscan")(schedule=f"before:{count},15:3").before(32)
    selection = encoding.select(images, count)
    for number in range(3):
        alone = encoding.select(only(images, number), count)
        kept, rows = vscan(only(images, number), count)
        assert selection.index[number].tolist() == alone.index[0].tolist() == kept
        torch.testing.assert_close(selection.rows[number], rows.float())
        torch.testing.assert_close(selection.rows[number], alone.rows[0])


def test_vscan_takes_grids_of_broken_windows() -> None:
    images = random_images(0, (7, 9))  # four windows, three of them smaller
    encoding = get_method("vscan")(budget=64).before(32)
    for count in (1, 20, 40, 63):
        index = encoding.select(images, count).index.tolist()
        assert all(row == sorted(set(row)) and len(row) == count for row in index)
    assert {60, 61, 62} <= set(encoding.select(images, 40).index[0].tolist())  # the last window, of three tokens


def test_vscan_sees_each_frame_by_itself() -> None:
    images = random_images(0, (3, 6, 6))
    encoding = get_method("vscan")(budget=64).before(32)
    kept = encoding.select(images, 24).index
    for number, frames in enumerate(images.attention[5].mean(1).view(3, 3, 36)):
        for frame, scores in enumerate(frames):  # half of 24 tokens are 4 of each
            best = (scores.topk(4).indices + 36 * frame).tolist()
            assert set(best) <= set(kept[number].tolist())


def test_vscans_two_places_have_one_budget() -> None:
    method = get_method("vscan")
    for budget in (192, 128, 64, 33, 1):
        for count in ("entering", "leaving"):
            for layers in (32, 40, 28, 27):
                counts = method(budget=budget, count=count).entering(layers, 576)
                leaving = [*counts[1:], counts[-1]]
                mean = sum(counts if count == "entering" else leaving) / layers
                assert abs(mean - budget) <= 1, (budget, count, layers)
    assert method(budget=64).describe(32, 576) == "before:96,15:32"
    assert method(budget=64).entering(32, 576) == [96] * 16 + [32] * 16
    assert method(budget=64).describe(32, 1152, images=2) == "before:192,15:64"
    assert method(budget=0.25).describe(32, 576) == "before:216,15:72"
    assert method(schedule="15:192").describe(32, 576) == "15:192"
    assert method(schedule=" before:96, 15:32").schedule == "before:96,15:32"
    for options, why in (
        ({"budget": 0.7}, "budget=0.7: VScan lets 1.05 times as many tokens in as there are"),
        ({"budget": 400}, "VScan lets 600 tokens of an image in, which has only 576: choose a smaller budget"),
        ({}, "needs either budget=64 or schedule="),
        ({"schedule": "before:96,15:32", "count": "leaving"}, "count= goes with budget="),
        ({"schedule": "before:many,15:32"}, "many"),
    ):
        with pytest.raises(ValueError, match=why):
            method(**options).entering(32, 576)


BATCHES = [("mmtok", (5, 6)), ("hiprune", (5, 6)), ("evs", VIDEO), ("vidcom2", VIDEO), ("cdpruner", ()), ("trim", ())]


@pytest.mark.parametrize(("name", "grid"), BATCHES)
def test_an_image_gets_in_a_batch_what_it_gets_alone(name: str, grid: tuple[int, ...], text_tower: str) -> None:
    images = random_images(3, grid) if grid else golden_images("long")
    method = get_method(name)(budget=20, **({} if grid else {"text_tower": text_tower}))
    together = method.select(images, 20)
    for number in range(len(images.projected)):
        alone = method.select(only(images, number), 20)
        assert torch.equal(together.index[number], alone.index[0])
        if together.made is not None:
            torch.testing.assert_close(together.made[number], alone.made[0])


def test_budget_that_is_all_of_an_image_keeps_it() -> None:
    for name, grid in BATCHES[:4]:
        images = random_images(4, grid)
        index = get_method(name)(budget=1).select(images, images.tokens).index
        assert torch.equal(index, torch.arange(images.tokens).expand(3, -1)), name
