"""Qwen2-VL and Qwen2.5-VL, whole, under `generate`: images of unequal size, several or none to a prompt, video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from test_positions import METHODS
from tiny_models import PAD, SIZES
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, DynamicCache

import adaptinfer_eval as ae
from adaptinfer_eval.pruning.releases import cache_of

FAMILIES = ["qwen2_vl", "qwen2_5_vl"]
IMAGE, VIDEO, BEGIN, END = 90, 91, 92, 93
STEPS = 4


def tiny(family: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    sizes = {"depth": 2, "num_heads": 2, "patch_size": 4, "initializer_range": 0.3}
    own: dict[str, dict[str, Any]] = {
        "qwen2_vl": {"embed_dim": 16, "hidden_size": 32},
        "qwen2_5_vl": {
            "hidden_size": 16,
            "out_hidden_size": 32,
            "intermediate_size": 32,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 5,
        },
    }
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    config = AutoConfig.for_model(
        family,
        text_config={**SIZES, "rope_parameters": rope},
        vision_config={**sizes, **own[family]},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=BEGIN,
        vision_end_token_id=END,
    )
    auto: Any = AutoModelForImageTextToText
    model = auto.from_config(config, attn_implementation=attention).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    return model


class Prompt:
    """Text, pictures of `grids` (frames, rows, columns of vision tokens; several frames are a video), text."""

    def __init__(self, before: int, grids: Sequence[tuple[int, int, int]], after: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.ids, self.grids = self._text(before), list(grids)
        for frames, rows, columns in grids:
            self.ids += [BEGIN, *[VIDEO if frames > 1 else IMAGE] * (frames * rows * columns), END]
        self.ids += self._text(after)
        patches = [frames * rows * columns * 4 for frames, rows, columns in grids]
        self.pixels = [torch.randn(count, 3 * 2 * 4 * 4, generator=self.generator) for count in patches]

    @property
    def vision(self) -> int:
        return sum(frames * rows * columns for frames, rows, columns in self.grids)

    def _text(self, count: int) -> list[int]:
        return torch.randint(2, IMAGE, (count,), generator=self.generator).tolist()


PROMPTS = [
    Prompt(5, [(1, 6, 10)], 7, 1),
    Prompt(3, [(1, 4, 9), (1, 7, 5)], 12, 2),
    Prompt(9, [], 4, 3),
    Prompt(2, [(4, 4, 5)], 6, 4),
]


def inputs_of(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """As a processor gives them, left-padded."""
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.tensor([[PAD] * (longest - len(prompt.ids)) + prompt.ids for prompt in prompts])
    pads = torch.tensor([[longest - len(prompt.ids)] for prompt in prompts])
    inputs = {
        "input_ids": ids,
        "attention_mask": (torch.arange(longest) >= pads).long(),
        "mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long(),
    }
    shown = [pair for prompt in prompts for pair in zip(prompt.grids, prompt.pixels, strict=True)]
    for pixels, grid, of_video in (
        ("pixel_values", "image_grid_thw", False),
        ("pixel_values_videos", "video_grid_thw", True),
    ):
        if own := [(size, patches) for size, patches in shown if (size[0] > 1) == of_video]:
            inputs[pixels] = torch.cat([patches for _, patches in own])
            inputs[grid] = torch.tensor([(frames, 2 * rows, 2 * columns) for (frames, rows, columns), _ in own])
    return inputs


def answered(model: Any, method: ae.Method | None, prompts: Sequence[Prompt], **options: Any) -> tuple[Any, Any]:
    """What `generate` gives for them, and the trace."""
    given: dict[str, Any] = {**inputs_of(prompts), "max_new_tokens": STEPS, "do_sample": False, **options}
    given |= {"output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad():
        if method is None:
            return model.generate(**given), None
        with ae.pruned(model, method) as trace:
            return model.generate(**given), trace


@pytest.mark.parametrize(
    ("family", "attention"), [("qwen2_vl", "sdpa"), ("qwen2_5_vl", "sdpa"), ("qwen2_5_vl", "eager")]
)
@pytest.mark.parametrize(("name", "options"), METHODS)
def test_batched_is_single(name: str, options: dict[str, Any], family: str, attention: str) -> None:
    model, method = tiny(family, attention), ae.get_method(name)(**options)
    together, trace = answered(model, method, PROMPTS)
    longest = max(len(prompt.ids) for prompt in PROMPTS)
    assert trace.images == [len(prompt.grids) for prompt in PROMPTS]
    for row, prompt in enumerate(PROMPTS):
        alone, own = answered(model, method, [prompt])
        assert together.sequences[row, longest:].tolist() == alone.sequences[0, len(prompt.ids) :].tolist()
        error = (torch.stack(together.logits)[:, row] - torch.stack(alone.logits)[:, 0]).abs().max()
        assert error < 1e-4, f"row {row}: {error}"
        assert trace.entering[row].tolist() == own.entering[0].tolist()
        for layer, kept in own.kept.items():
            mine = trace.kept[layer][row]
            assert (mine[mine >= 0] - longest + len(prompt.ids)).tolist() == kept[0].tolist()
    text = torch.tensor([len(prompt.ids) - prompt.vision for prompt in PROMPTS])
    cached = [cache_of(together).get_seq_length(layer) for layer in range(8)]
    assert cached == [int((entering + text).max()) + STEPS - 1 for entering in trace.entering.T]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "options"), METHODS)
@torch.no_grad()
def test_equals_the_decoder_alone(name: str, options: dict[str, Any], family: str) -> None:
    """Fed the same embeddings and positions, which test_positions.py holds to a model without cache and engine."""
    model, method, inputs = tiny(family), ae.get_method(name)(**options), inputs_of(PROMPTS)
    out, trace = answered(model, method, PROMPTS)
    text, found = model.model.language_model, {}
    handle = text.register_forward_pre_hook(lambda _module, _args, given: found.update(given), with_kwargs=True)
    model(**inputs)
    handle.remove()
    mask, valid, positions = inputs["mm_token_type_ids"] > 0, inputs["attention_mask"], found["position_ids"]
    given = {"inputs_embeds": found["inputs_embeds"], "position_ids": positions, "attention_mask": valid}
    last = positions[0, :, -1]  # generate goes on behind the text, whatever frames are beyond it
    cache = DynamicCache(config=text.config)
    with ae.pruned(text, method, vision_mask=mask) as bare:
        for step in range(STEPS):
            hidden = text(**given, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
            assert torch.allclose(model.lm_head(hidden), out.logits[step], atol=1e-5)
            token = out.sequences[:, inputs["input_ids"].shape[1] + step]
            valid = torch.nn.functional.pad(valid, (0, 1), value=1)
            given = {
                "inputs_embeds": text.embed_tokens(token[:, None]),
                "position_ids": (last + 1 + step).expand(3, -1)[..., None],
                "attention_mask": valid,
            }
    assert trace.kept.keys() == bare.kept.keys()
    assert all(torch.equal(trace.kept[layer], bare.kept[layer]) for layer in bare.kept)


@pytest.mark.parametrize("name", ["fastv", "random"])
@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_all_changes_nothing_and_nothing_is_left_behind(family: str, name: str) -> None:
    model = tiny(family)
    answered(model, None, PROMPTS[:1])  # transformers leaves hooks of its own
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]
    for prompt in (PROMPTS[1], PROMPTS[3]):
        before, _ = answered(model, None, [prompt])
        kept, trace = answered(model, ae.get_method(name)(schedule=f"1:{prompt.vision}"), [prompt])
        assert trace.entering.tolist() == [[prompt.vision] * 8]
        after, _ = answered(model, None, [prompt])
        assert torch.equal(torch.stack(before.logits), torch.stack(kept.logits))
        assert torch.equal(torch.stack(before.logits), torch.stack(after.logits))
    assert hooks == [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("name", "options"), METHODS)
def test_beam_search_in_a_batch(name: str, options: dict[str, Any], family: str) -> None:
    model, method = tiny(family), ae.get_method(name)(**options)
    together, _ = answered(model, method, PROMPTS, num_beams=3)
    longest = max(len(prompt.ids) for prompt in PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone, _ = answered(model, method, [prompt], num_beams=3)
        assert together.sequences[row, longest:].tolist() == alone.sequences[0, len(prompt.ids) :].tolist()


@pytest.mark.parametrize(("name", "options"), [("adaptinfer", {}), ("fastv", {"k": 1}), ("pdrop", {}), ("random", {})])
def test_a_budget_is_of_each_image_whatever_its_size(name: str, options: dict[str, Any]) -> None:
    model, method = tiny("qwen2_vl"), ae.get_method(name)(budget=16, count="entering", **options)
    _, trace = answered(model, method, [PROMPTS[0], PROMPTS[1], PROMPTS[3]])
    for mean, images in zip(trace.entering.float().mean(1).tolist(), trace.images, strict=True):
        assert mean == pytest.approx(16 * images, abs=images)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sparsevlm", {"schedule": "1:24"}, "SparseVLM merges tokens, and this model's positions have 3 axes"),
        ("tome", {"budget": 20}, "this model has none: use a method that prunes in the language model"),
        ("fastv", {"budget": 900}, "the image has only 60 vision tokens: use vanilla"),
    ],
)
def test_what_cannot_be_right_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        answered(tiny("qwen2_vl"), ae.get_method(name)(**options), PROMPTS[:1])
