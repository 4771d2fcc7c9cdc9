"""Pruning never needs more memory than no pruning; and the measure of memory is itself right."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from tiny_models import IMAGE, METHODS, PAD
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import adaptinfer_eval as ae
from adaptinfer_eval.bench.memory import peak_bytes

VISION, CPU = 576, torch.device("cpu")
AT_64: list[tuple[str, dict[str, Any]]] = [
    (name, {"budget": 64}) for name in sorted({n for n, _ in METHODS} - {"vanilla", "vtw"})
]
AT_64 += [("sparsevlm", {"budget": 64, "variant": "plus"}), ("vtw", {"schedule": "1:0"})]


def test_peak_counts_what_is_alive_at_once() -> None:
    kept = torch.zeros(1000)

    def work() -> None:
        first = kept + 1  # 4000 bytes
        view = first[10:].view(2, -1)
        second = torch.cat([kept, kept])  # 8000 beside them
        del first, second
        view.add_(1)  # still the first 4000
        third = view * 2  # 3960 beside them
        del view
        assert len(third) == 2

    assert peak_bytes(work, CPU) == 12000
    assert peak_bytes(lambda: kept.view(10, 100).add_(1), CPU) == 0
    assert peak_bytes(lambda: [kept + 1 for _ in range(3)], CPU) == 12000


def llava(attention: str) -> Any:
    """LLaVA-1.5-7B's proportions at 1/16 of its width: heads of 128, and 24 × 24 patches."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=5, num_attention_heads=1, image_size=96, patch_size=4
    )
    text = LlamaConfig(
        vocab_size=96, hidden_size=256, intermediate_size=688, num_hidden_layers=12, num_attention_heads=2
    )
    config: Any = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=VISION)
    model: Any = LlavaForConditionalGeneration(config)
    model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = None
    return model.eval()


def prompts(*text_after: int) -> dict[str, Tensor]:
    """One prompt with an image for each length of the text after it, left-padded."""
    longest = 5 + VISION + max(text_after)
    ids, mask = torch.full((len(text_after), longest), PAD), torch.zeros(len(text_after), longest, dtype=torch.long)
    for row, after in enumerate(text_after):
        ids[row, longest - after - VISION - 5 :] = 7
        ids[row, longest - after - VISION : longest - after] = IMAGE
        mask[row, longest - after - VISION - 5 :] = 1
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(len(ids), 3, 96, 96)}


@cache
def peak(name: str, options: tuple[tuple[str, Any], ...], attention: str, text_after: tuple[int, ...]) -> int:
    model, method, inputs = llava(attention), ae.get_method(name)(**dict(options)), prompts(*text_after)
    pad: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": PAD}
    with ae.pruned(model, method), torch.inference_mode():
        return peak_bytes(lambda: model.generate(**inputs, **pad), CPU)


@pytest.mark.parametrize(
    ("attention", "text_after"),
    [("sdpa", (31,)), ("eager", (31,)), ("sdpa", (60, 31)), ("sdpa", (400,))],
    ids=["one prompt", "eager", "padded batch", "long text"],
)
@pytest.mark.parametrize(("name", "options"), AT_64)
def test_pruning_needs_no_more_memory_than_vanilla(
    name: str, options: dict[str, Any], attention: str, text_after: tuple[int, ...]
) -> None:
    pruned = peak(name, tuple(options.items()), attention, text_after)
    assert pruned <= peak("vanilla", (), attention, text_after)
