"""A tiny Gemma 3: 36 vision tokens to an image, five layers with a window to one that sees all."""

from __future__ import annotations

from pathlib import Path

from checkpoints.parts import TOWER, text_config, write
from checkpoints.words import trained
from transformers import Gemma3ImageProcessor, Gemma3Processor, SiglipVisionConfig

TEMPLATE = (
    "{{ bos_token }}{% set said = messages[0]['role'] == 'system' %}{% for message in messages[said | int:] %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% if said and loop.first %}{{ messages[0]['content'][0]['text'] }}\n\n{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""It has no turn for what the system says: the user's first begins with it."""


def save(folder: Path, layers: int = 4, window: int = 512) -> Path:
    of_images = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    words = trained(
        ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", *of_images],
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=dict(zip(("boi_token", "eoi_token", "image_token"), of_images, strict=True)),
    )
    Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 48, "width": 48}),
        tokenizer=words,
        image_seq_length=36,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    text = text_config("gemma3_text", words, layers)
    return write(
        "gemma3",
        folder,
        words,
        vision_config=SiglipVisionConfig(**{**TOWER, "image_size": 48}, vision_use_head=False),
        text_config={**text, "head_dim": 16, "sliding_window": window, "query_pre_attn_scalar": 16},
        mm_tokens_per_image=36,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
        eos_token_id=[words.eos_token_id, words.convert_tokens_to_ids("<end_of_turn>")],
        tie_word_embeddings=False,
    )
