"""A tiny InternVL over Qwen2's decoder (2.5, 3) or Qwen3's (3.5): 36 vision tokens to a tile of 24 × 24 pixels."""

from __future__ import annotations

import functools
from pathlib import Path

from checkpoints.parts import text_config, write
from checkpoints.words import trained
from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor, InternVLVisionConfig

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% elif part['type'] == 'video' %}<video>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save(decoder: str, folder: Path, layers: int = 4) -> Path:
    """By itself its processor cuts an image into up to 12 tiles, and adds the whole."""
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    marks["video_token"] = "<video>"
    words = trained(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *marks.values()],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=marks,
    )
    InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size={"height": 24, "width": 24}),
        tokenizer=words,
        video_processor=InternVLVideoProcessor(size={"height": 24, "width": 24}),
        image_seq_length=36,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return write(
        "internvl",
        folder,
        words,
        vision_config=InternVLVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=24,
            patch_size=2,
            initializer_range=0.3,
            layer_scale_init_value=1.0,
        ),
        text_config=text_config(decoder, words, layers) | ({"head_dim": 16} if decoder == "qwen3" else {}),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=36,
        tie_word_embeddings=False,
    )


save_internvl, save_internvl3_5 = functools.partial(save, "qwen2"), functools.partial(save, "qwen3")
