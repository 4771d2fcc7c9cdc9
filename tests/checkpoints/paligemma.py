"""A tiny PaliGemma 2, or 1 over Gemma's first decoder: 36 vision tokens to an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoints.parts import TOWER, text_config, write
from checkpoints.words import trained
from transformers import PaliGemmaProcessor, SiglipImageProcessor, SiglipVisionConfig


def save(folder: Path, layers: int = 4, decoder: str = "gemma2") -> Path:
    words = trained(
        ["<pad>", "<eos>", "<bos>", "<unk>", "<image>"],
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    images: Any = SiglipImageProcessor(size={"height": 24, "width": 24})
    images.image_seq_length = 36
    PaliGemmaProcessor(image_processor=images, tokenizer=words).save_pretrained(folder)  # type: ignore[no-untyped-call]
    text = {**text_config(decoder, words, layers, spread=0.2), "head_dim": 16}
    if decoder == "gemma2":
        text |= {"query_pre_attn_scalar": 16, "sliding_window": 512}
    return write(
        "paligemma",
        folder,
        words,
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=text,
        projection_dim=64,
        hidden_size=64,
        image_token_index=words.image_token_id,
        bos_token_id=words.bos_token_id,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=False,
    )
