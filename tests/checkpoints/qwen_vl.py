"""Tiny Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5: 8 × 8 pixels to a vision token."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from checkpoints.parts import text_config, write
from checkpoints.words import trained
from transformers import (
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
PARTS = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
)
THINKING = "<think>\n{% if enable_thinking is defined and not enable_thinking %}{{ '\n' }}</think>\n\n{% endif %}"
"""As published from 4B on; the smaller ones think where they are told to."""


def template(family: str) -> str:
    """Qwen3-VL and Qwen3.5 write no system prompt of their own, Qwen3.5 what begins a thought or skips it."""
    system = "" if family.startswith("qwen3") else SYSTEM
    parts = "{% filter trim %}" + PARTS + "{% endfilter %}" if family == "qwen3_5" else PARTS
    thinking = THINKING if family == "qwen3_5" else ""
    said = system + "<|im_start|>{{ message['role'] }}\n" + parts + "<|im_end|>\n"
    return (
        "{% for message in messages %}" + said + "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + thinking + "{% endif %}"
    )


SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
PROCESSORS: dict[str, Any] = {
    "qwen2_vl": Qwen2VLProcessor,
    "qwen2_5_vl": Qwen2_5_VLProcessor,
    "qwen3_vl": Qwen3VLProcessor,
    "qwen3_5": Qwen3VLProcessor,
}
TOWERS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"embed_dim": 16, "hidden_size": 64},
    "qwen2_5_vl": {
        "hidden_size": 16,
        "out_hidden_size": 64,
        "intermediate_size": 32,
        "window_size": 16,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    },
    "qwen3_vl": {
        "hidden_size": 16,
        "out_hidden_size": 64,
        "intermediate_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    },
    "qwen3_5": {"hidden_size": 16, "out_hidden_size": 64, "intermediate_size": 32, "num_position_embeddings": 64},
}

LINEAR = {
    "full_attention_interval": 2,
    "partial_rotary_factor": 1.0,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
"""Every other layer attends, the second first."""


def save(family: str, folder: Path, layers: int = 4) -> Path:
    marks = [*SPECIAL, "<think>", "</think>"] if family == "qwen3_5" else SPECIAL
    words = trained(marks, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    sizes: dict[str, Any] = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    pixels = {"shortest_edge": 16 * 16, "longest_edge": 96 * 96}
    videos: Any = Qwen3VLVideoProcessor if family in ("qwen3_vl", "qwen3_5") else Qwen2VLVideoProcessor
    PROCESSORS[family](
        image_processor=Qwen2VLImageProcessor(size=pixels, **sizes),
        tokenizer=words,
        video_processor=videos(size=pixels, **sizes),
        chat_template=template(family),
    ).save_pretrained(folder)
    begin, end, image, video = (words.convert_tokens_to_ids(mark) for mark in SPECIAL[3:])
    section = {"mrope_section": [4, 2, 2]} | ({"mrope_interleaved": True} if family in ("qwen3_vl", "qwen3_5") else {})
    return write(
        family,
        folder,
        words,
        text_config={
            **text_config(f"{family}_text", words, layers),
            "head_dim": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, **section},
            **(LINEAR if family == "qwen3_5" else {}),
        },
        vision_config={
            "depth": 2,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "initializer_range": 0.3,
            **TOWERS[family],
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=begin,
        vision_end_token_id=end,
        tie_word_embeddings=False,
    )


save_qwen2_vl, save_qwen2_5_vl, save_qwen3_vl, save_qwen3_5 = (functools.partial(save, family) for family in PROCESSORS)
