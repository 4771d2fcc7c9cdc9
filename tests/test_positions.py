"""Positions on three axes (Qwen2-VL, Qwen2.5-VL): every method, held to a model of its own without cache and engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tiny_models import LAYER_METHODS, SIZES
from torch import Tensor
from transformers import AutoConfig, AutoModel, DynamicCache

import adaptinfer_eval as ae

FAMILIES = ["qwen2_vl_text", "qwen2_5_vl_text"]
METHODS = [  # all but the one that merges
    (name, options) for name, options in LAYER_METHODS if name != "sparsevlm" or options.get("variant") == "plus"
]


def text_model(family: str) -> Any:
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    auto: Any = AutoModel
    model = auto.from_config(AutoConfig.for_model(family, **{**SIZES, "rope_parameters": rope}))
    return model.eval()


class Prompt:
    """Text, images of some grids with a token between them, text; embeddings (L, D), mask (L,), positions (3, L).

    `apart`: frames of a video are so many positions apart in time. As in Qwen2.5-VL, text goes on behind the larger of
    height and width, so that the last frames may be later than the text behind them. The answer begins at `answer`:
    behind all, as in Qwen2.5-VL's own forward, or `behind_text`, as in its generate.
    """

    def __init__(
        self,
        before: int,
        grids: Sequence[tuple[int, int, int]],
        after: int,
        seed: int,
        apart: int = 1,
        behind_text: bool = False,
    ) -> None:
        columns: list[Tensor] = []
        mask: list[bool] = []
        start = 0

        def text(count: int) -> None:
            nonlocal start
            columns.append((start + torch.arange(count)).expand(3, -1))
            mask.extend([False] * count)
            start += count

        text(before)
        for time, height, width in grids:
            axes = torch.arange(time) * apart, torch.arange(height), torch.arange(width)
            columns.append(start + torch.cartesian_prod(*axes).T)
            mask.extend([True] * (time * height * width))
            start += max(height, width)
            text(1)
        text(after)
        self.positions, self.mask = torch.cat(columns, 1), torch.tensor(mask)
        self.answer = start if behind_text else int(self.positions.max()) + 1
        generator = torch.Generator().manual_seed(seed)
        self.embeds = torch.randn(len(mask), 32, generator=generator)
        self.steps = torch.randn(3, 32, generator=generator)


PROMPTS = [Prompt(4, [(1, 6, 10)], 7, 1), Prompt(3, [(1, 4, 9), (2, 5, 6)], 9, 2), Prompt(5, [], 8, 3)]
VIDEO = Prompt(4, [(6, 4, 4)], 6, 4, apart=7)  # nothing stands at most positions after the text
WITHIN = Prompt(4, [(9, 4, 3)], 6, 5, apart=3, behind_text=True)  # the answer, too, is before the last frames


def answered(model: Any, method: ae.Method | None, prompts: Sequence[Prompt]) -> tuple[list[Tensor], Any, Any]:
    """Last hidden states of the prefill and three steps, (B, D) each; the trace; the cache. Left-padded."""
    longest = max(len(prompt.mask) for prompt in prompts)
    pads = [longest - len(prompt.mask) for prompt in prompts]
    pad = torch.nn.functional.pad
    embeds = torch.stack([pad(p.embeds, (0, 0, n, 0)) for p, n in zip(prompts, pads, strict=True)])
    mask = torch.stack([pad(p.mask, (n, 0)) for p, n in zip(prompts, pads, strict=True)])
    positions = torch.stack([pad(p.positions, (n, 0), value=1) for p, n in zip(prompts, pads, strict=True)], 1)
    valid = torch.stack([pad(torch.ones_like(p.mask), (n, 0)) for p, n in zip(prompts, pads, strict=True)]).long()
    cache = DynamicCache(config=model.config)

    def run() -> list[Tensor]:
        given = {"past_key_values": cache, "use_cache": True}
        padding = {"attention_mask": valid} if any(pads) else {}
        found = [model(inputs_embeds=embeds, position_ids=positions, **padding, **given).last_hidden_state[:, -1]]
        for step in range(3):
            now = torch.tensor([p.answer + step for p in prompts]).expand(3, -1)[..., None]
            token = torch.stack([p.steps[step] for p in prompts])[:, None]
            padding = {"attention_mask": pad(valid, (0, step + 1), value=1)} if any(pads) else {}
            found.append(model(inputs_embeds=token, position_ids=now, **padding, **given).last_hidden_state[:, -1])
        return found

    if method is None:
        return run(), None, cache
    with ae.pruned(model, method, vision_mask=mask) as trace:
        return run(), trace, cache


def by_hand(model: Any, prompt: Prompt, kept: dict[int, list[int]], renumbers: bool) -> list[Tensor]:
    """The same without cache and engine: all tokens anew through every layer that they reach.

    `kept`: after which layers which columns of vision tokens go on.
    """
    length, found = len(prompt.mask), []
    for steps in range(4):
        hidden = torch.cat([prompt.embeds, prompt.steps[:steps]])
        columns = list(range(length + steps))
        positions = {column: prompt.positions[:, column] for column in range(length)}
        positions |= {length + step: torch.tensor([prompt.answer + step] * 3) for step in range(steps)}
        for number, layer in enumerate(model.layers):
            stacked = torch.stack([positions[column] for column in columns], 1)[:, None]
            rotary = model.rotary_emb(hidden[None], stacked)
            hidden = layer(hidden[None], position_embeddings=rotary, attention_mask=None)[0]
            if number in kept:
                stay = [i for i, c in enumerate(columns) if c >= length or not prompt.mask[c] or c in kept[number]]
                hidden, columns = hidden[stay], [columns[i] for i in stay]
                if renumbers:
                    before = {int(value) for column in positions if column < length for value in positions[column]}
                    left = {int(value) for column in columns if column < length for value in positions[column]}
                    gone = before - left
                    answer = positions.get(length, torch.zeros(1))[0]  # the whole of it moves as its first token does
                    positions = {
                        column: torch.tensor(
                            [
                                int(old) - sum(value < (old if column < length else answer) for value in gone)
                                for old in positions[column]
                            ]
                        )
                        for column in columns
                    }
        found.append(model.norm(hidden[-1]))
    return found


@pytest.mark.parametrize(
    "prompt",
    [*PROMPTS[:2], VIDEO, WITHIN],
    ids=["one image", "image and video", "frames far apart", "frames beyond the answer"],
)
@pytest.mark.parametrize(("name", "options"), METHODS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_equals_a_model_without_cache_and_engine(
    family: str, name: str, options: dict[str, Any], prompt: Prompt
) -> None:
    model, method = text_model(family), ae.get_method(name)(**options)
    found, trace, _ = answered(model, method, [prompt])
    kept = {layer: ids[0].tolist() for layer, ids in trace.kept.items()}
    expected = by_hand(model, prompt, kept, method.positions == "renumber")
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one[0], other, atol=1e-5), (one[0] - other).abs().max()


@pytest.mark.parametrize(("name", "options"), METHODS)
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_batched_is_single(family: str, name: str, options: dict[str, Any]) -> None:
    model, method = text_model(family), ae.get_method(name)(**options)
    together, trace, cache = answered(model, method, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone, own, _ = answered(model, method, [prompt])
        for one, other in zip(together, alone, strict=True):
            assert torch.allclose(one[row], other[0], atol=1e-5), (one[row] - other[0]).abs().max()
        assert trace.entering[row].tolist() == own.entering[0].tolist()
        padding = max(len(each.mask) for each in PROMPTS) - len(prompt.mask)
        for layer, ids in own.kept.items():
            assert [column for column in trace.kept[layer][row].tolist() if column >= 0] == [
                column + padding for column in ids[0].tolist()
            ]
    text = torch.tensor([int((~prompt.mask).sum()) for prompt in PROMPTS])
    assert cache.get_seq_length(7) == int((trace.entering[:, 7] + text).max()) + 3


@pytest.mark.parametrize(
    "prompt", [PROMPTS[1], VIDEO, WITHIN], ids=["image and video", "frames far apart", "frames beyond the answer"]
)
@pytest.mark.parametrize("name", ["fastv", "random"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_method_that_keeps_all_changes_nothing(family: str, name: str, prompt: Prompt) -> None:
    """Under both rules: fastv keeps positions, random numbers anew."""
    model = text_model(family)
    whole, _, _ = answered(model, None, [prompt])
    method = ae.get_method(name)(schedule=f"1:{int(prompt.mask.sum())}")
    kept, _, _ = answered(model, method, [prompt])
    assert method.positions == {"fastv": "keep", "random": "renumber"}[name]
    assert all(torch.equal(one, other) for one, other in zip(kept, whole, strict=True))
    again, _, _ = answered(model, None, [prompt])
    assert all(torch.equal(one, other) for one, other in zip(again, whole, strict=True))


@torch.no_grad()
def test_what_has_no_place_on_three_axes_is_refused() -> None:
    model = text_model("qwen2_vl_text")
    with pytest.raises(ValueError, match="SparseVLM merges tokens, and this model's positions have 3 axes"):
        answered(model, ae.get_method("sparsevlm")(schedule="1:24,3:16"), PROMPTS[:1])
