"""Tiny PaliGemma 1 and 2: 36 vision tokens to an image, which see each other and the whole prompt."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from checkpoints.llava_next import TOWER, text_config, write
from checkpoints.words import trained
from transformers import PaliGemmaProcessor, SiglipImageProcessor, SiglipVisionConfig

LAYERS: dict[str, dict[str, Any]] = {"gemma": {}, "gemma2": {"query_pre_attn_scalar": 16, "sliding_window": 512}}


def save(decoder: str, folder: Path, layers: int = 4) -> Path:
    """The published checkpoints have no chat template: a prompt is `<image>`, a task's word and its text."""
    words = trained(
        ["<pad>", "<eos>", "<bos>", "<unk>"], bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>"
    )
    images = SiglipImageProcessor(size={"height": 48, "width": 48}, image_seq_length=36)
    processor = PaliGemmaProcessor(image_processor=images, tokenizer=words)  # type: ignore[no-untyped-call]
    processor.save_pretrained(folder)  # it has added `<image>` to the words
    return write(
        "paligemma",
        folder,
        words,
        vision_config=SiglipVisionConfig(**{**TOWER, "image_size": 48, "patch_size": 8}, vision_use_head=False),
        text_config={**text_config(decoder, words, layers), "head_dim": 16, **LAYERS[decoder]},
        projection_dim=64,
        hidden_size=64,
        image_token_index=words.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )


save_paligemma, save_paligemma2 = functools.partial(save, "gemma"), functools.partial(save, "gemma2")
