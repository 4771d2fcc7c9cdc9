"""What tiny checkpoints have in common: the sizes of their parts, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 4,
}


def text_config(decoder: str, words: Any, layers: int, spread: float = 0.3) -> dict[str, Any]:
    """`spread`: of random weights; the larger, the more of what layers compute is rounded off."""
    return {
        "model_type": decoder,
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "initializer_range": spread,
    }


def write(model_type: str, folder: Path, words: Any, **config: Any) -> Path:
    torch.manual_seed(0)
    auto: Any = AutoModelForImageTextToText
    model = auto.from_config(AutoConfig.for_model(model_type, **config))
    for name, weight in model.named_parameters():
        if name.endswith("mm_input_projection_weight"):  # Gemma's, which begins as zeros
            torch.nn.init.normal_(weight)
    model.generation_config.eos_token_id = config.get("eos_token_id", words.eos_token_id)
    model.generation_config.pad_token_id = words.pad_token_id
    model.save_pretrained(folder)
    return folder
