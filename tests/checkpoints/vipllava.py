"""A tiny VipLLaVA, which reads several layers of its tower: 36 vision tokens to an image of 24 × 24 pixels."""

from __future__ import annotations

from pathlib import Path

from checkpoints.parts import TOWER, text_config, write
from checkpoints.words import llama_words
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlavaProcessor

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'][0]['text'] }}"
    "{% else %}###{{ message['role'] | title }}: {% for part in message['content'] | sort(attribute='type') %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}###Assistant:{% endif %}"
)
"""Images come first, wherever they are said to be."""


def save(folder: Path, layers: int = 4) -> Path:
    words = llama_words()
    LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
        tokenizer=words,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return write(
        "vipllava",
        folder,
        words,
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=text_config("llama", words, layers),
        image_token_index=words.image_token_id,
        image_seq_length=36,
        vision_feature_layer=[-2, -3, 1],
        tie_word_embeddings=False,
    )
