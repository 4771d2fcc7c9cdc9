"""A tiny CLIP with both towers as a checkpoint in a folder, in the real layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

TEXT = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
"""The golden data's text tower."""


def tiny_clip(vision: dict[str, Any]) -> CLIPModel:
    """Around a vision tower of such a configuration."""
    return CLIPModel(CLIPConfig(text_config=TEXT, vision_config=vision, projection_dim=32))


def save(model: CLIPModel, folder: Path) -> str:
    """With a tokenizer to which word `t7` is token 7, and any other word 3; 98 begins and 99 ends a text."""
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"t{number}": number for number in range(100)}, unk_token="t3"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(single="t98 $A t99", special_tokens=[("t98", 98), ("t99", 99)])
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return str(folder)
