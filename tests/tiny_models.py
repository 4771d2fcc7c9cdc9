"""Tiny random models for tests of the engine: a LLaVA, an InternVL, bare decoders, and prompts of unequal length."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

takes_features = pytest.mark.skipif(
    "mm_encoder_outputs" not in inspect.signature(LlavaForConditionalGeneration.forward).parameters,
    reason="this release of transformers takes no features that were encoded before",
)
IMAGE, PAD, VOCABULARY, IMAGE_TOKENS = 90, 0, 96, 64

# Every method, with options that fit 36 vision tokens and more, and 8 layers.
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("vanilla", {}),
    ("adaptinfer", {"schedule": "1:30,3:12,5:4"}),
    ("adaptinfer", {"schedule": "0:20,5:0", "variant": "paper"}),
    ("fastv", {"schedule": "1:9"}),
    ("pdrop", {"schedule": "1:0.4,3:0.2,5:0.05"}),
    ("sparsevlm", {"schedule": "1:24,3:16,5:9"}),
    ("sparsevlm", {"schedule": "1:30,3:12", "variant": "plus", "priority_heads": 2}),
    ("random", {"schedule": "1:20,4:6"}),
    ("foreground", {"schedule": "1:20,4:6"}),
    ("dart", {"schedule": "1:20"}),
    ("vtw", {"schedule": "3:0"}),
    ("fitprune", {"schedule": "0:30,1:20,3:16,5:9"}),
    ("v2drop", {"schedule": "1:30,3:12,5:1"}),
    ("tome", {"budget": 20}),
    ("downsample", {"budget": 20}),
    ("fastervlm", {"budget": 20}),
    ("divprune", {"budget": 20}),
    ("hiprune", {"budget": 20}),
    ("vscan", {"schedule": "before:30,3:9"}),
    ("visionzip", {"budget": 20}),
    ("vispruner", {"budget": 20}),
    ("scope", {"budget": 20}),
    ("holov", {"budget": 20}),
    ("prumerge", {"budget": 20}),
    ("prumerge", {"budget": None}),
]
BEFORE = (
    *("tome", "downsample", "fastervlm", "divprune", "hiprune", "vscan"),
    *("visionzip", "vispruner", "scope", "holov", "prumerge"),
)
"""Those that prune before the decoder."""
LAYER_METHODS = [(name, options) for name, options in METHODS if name not in ("vanilla", *BEFORE)]
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,  # attention far from uniform, so that scores have margins
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": None,
}


def llava(attention: str = "sdpa", family: str = "llama") -> Any:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=32,
        patch_size=4,
        initializer_range=0.5,
        initializer_factor=3.0,
    )
    config: Any = LlavaConfig(
        vision_config=vision,
        text_config=AutoConfig.for_model(family, **SIZES),
        image_token_index=IMAGE,
        image_seq_length=IMAGE_TOKENS,
    )
    model: Any = LlavaForConditionalGeneration(config)
    model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = None
    return model.eval()


def internvl(attention: str = "sdpa", family: str = "qwen2") -> Any:
    """Takes the same prompts as `llava`: 16 × 16 patches of an image, shuffled to 8 × 8 vision tokens."""
    torch.manual_seed(0)
    vision = InternVLVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=2,
        initializer_range=0.5,
        layer_scale_init_value=1.0,
    )
    config: Any = InternVLConfig(
        vision_config=vision,
        text_config=AutoConfig.for_model(family, **SIZES),
        image_token_id=IMAGE,
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=False,
    )
    model: Any = InternVLForConditionalGeneration(config)
    # Behind its LayerNorm the projector would set tokens so far apart that SparseVLM's densities all underflow to 0.
    model.model.multi_modal_projector.linear_2.weight.data *= 0.1
    model.set_attn_implementation(attention)
    model.generation_config.eos_token_id = None
    return model.eval()


MODELS: dict[str, Callable[..., Any]] = {"llava": llava, "internvl": internvl}
CASES = [(family, *method) for method in METHODS for family in MODELS if (family, method[0]) != ("internvl", "tome")]
ROUNDING = {"llava": 1e-4, "internvl": 3e-4}
"""How far logits in a batch may be from those alone: InternVL's LayerNorm shows it, without pruning too."""


def decoder(family: str, attention: str = "sdpa", **options: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **options})
    auto: Any = AutoModelForCausalLM
    return auto.from_config(config, attn_implementation=attention).eval()


def prompt(text_before: int, images: int, text_after: int, seed: int) -> dict[str, Tensor]:
    """One prompt: text, images with a token between them, text; (1, L) ids and pixels, as a processor would give."""
    generator = torch.Generator().manual_seed(seed)

    def text(count: int) -> list[int]:
        return torch.randint(2, IMAGE, (count,), generator=generator).tolist()

    ids = text(text_before)
    for _ in range(images):
        ids += [IMAGE] * IMAGE_TOKENS + text(1)
    ids += text(text_after)
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if images:
        inputs["pixel_values"] = torch.randn(images, 3, 32, 32, generator=generator)
    return inputs


def batch(prompts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The prompts left-padded to one batch."""
    longest = max(p["input_ids"].shape[1] for p in prompts)

    def pad(tensor: Tensor, value: int) -> Tensor:
        return torch.nn.functional.pad(tensor, (longest - tensor.shape[1], 0), value=value)

    inputs = {
        "input_ids": torch.cat([pad(p["input_ids"], PAD) for p in prompts]),
        "attention_mask": torch.cat([pad(p["attention_mask"], 0) for p in prompts]),
    }
    pixels = [p["pixel_values"] for p in prompts if "pixel_values" in p]
    return {**inputs, "pixel_values": torch.cat(pixels)} if pixels else inputs
