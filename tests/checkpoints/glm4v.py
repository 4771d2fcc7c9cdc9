"""A tiny GLM-4V: 8 × 8 pixels to a vision token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoints.parts import text_config, write
from checkpoints.words import trained
from transformers import Glm4vImageProcessor, Glm4vProcessor, Glm4vVideoProcessor

TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}{{ '<|' + message['role'] + '|>\n' }}{% if message['role'] == 'user' %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif part['type'] == 'video' %}<|begin_of_video|><|video|><|end_of_video|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""Like the published one it writes lists as Python does, but for a user: the others' words have to be strings."""
MARKS = ["<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>"]


def save(folder: Path, layers: int = 4) -> Path:
    roles = ["[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    words = trained(["<|endoftext|>", *roles, *MARKS], eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    sizes: dict[str, Any] = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 96 * 96}}
    Glm4vProcessor(  # type: ignore[no-untyped-call]
        image_processor=Glm4vImageProcessor(**sizes),
        tokenizer=words,
        video_processor=Glm4vVideoProcessor(**sizes),
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}
    begin, end, video_begin, video_end, image, video = (words.convert_tokens_to_ids(mark) for mark in MARKS)
    return write(
        "glm4v",
        folder,
        words,
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "image_size": 32,
            "patch_size": 4,
            "out_hidden_size": 64,
            "initializer_range": 0.3,
        },
        text_config={**text_config("glm4v_text", words, layers), "rope_parameters": rope},
        image_start_token_id=begin,
        image_end_token_id=end,
        video_start_token_id=video_begin,
        video_end_token_id=video_end,
        image_token_id=image,
        video_token_id=video,
        tie_word_embeddings=False,
        eos_token_id=[words.convert_tokens_to_ids(mark) for mark in ("<|endoftext|>", "<|user|>", "<|observation|>")],
    )
