"""Tiny LLaVA-NeXT, over Vicuna's decoder or Mistral's, and LLaVA-OneVision: 36 vision tokens to 24 × 24 pixels."""

from __future__ import annotations

import functools
from pathlib import Path

from checkpoints.parts import TOWER, text_config, write
from checkpoints.words import llama_words, trained
from transformers import (
    CLIPVisionConfig,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    SiglipVisionConfig,
)

IMAGES = "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
TEXTS = "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
"""Whatever their order, as in the published templates: images first."""
VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    + IMAGES
    + TEXTS.replace("{% endfor %}", " {% endfor %}")
    + "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}"
    + "{% if message['role'] == 'system' %}<<SYS>>\n"
    + TEXTS
    + "{{ '\n<</SYS>>\n\n' }}{% elif message['role'] == 'user' %}[INST] "
    + IMAGES
    + TEXTS
    + " [/INST]{% else %} "
    + TEXTS
    + "</s> {% endif %}{% endfor %}"
)
CHAT_ML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    + IMAGES.replace("\n", "")
    + "{% for part in message['content'] if part['type'] == 'video' %}<video>{% endfor %}"
    + TEXTS.replace("{{ part", "{{ '\n' + part")
    + "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GRIDS = [[24, 48], [48, 24], [48, 48], [72, 24], [24, 72]]


def save_next(decoder: str, template: str, folder: Path, layers: int = 4) -> Path:
    words = llama_words()
    LlavaNextProcessor(  # type: ignore[no-untyped-call]
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, image_grid_pinpoints=GRIDS
        ),
        tokenizer=words,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    ).save_pretrained(folder)
    return write(
        "llava_next",
        folder,
        words,
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=text_config(decoder, words, layers),
        image_token_index=words.image_token_id,
        image_grid_pinpoints=GRIDS,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def save_onevision(folder: Path, layers: int = 4) -> Path:
    words = trained(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={"image_token": "<image>", "video_token": "<video>"},
    )
    size = {"height": 24, "width": 24}
    grids = [[high, wide] for high in (24, 48, 72) for wide in (24, 48, 72)]
    LlavaOnevisionProcessor(  # type: ignore[no-untyped-call]
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grids),
        tokenizer=words,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=36,
        vision_feature_select_strategy="full",
        chat_template=CHAT_ML,
    ).save_pretrained(folder)
    return write(
        "llava_onevision",
        folder,
        words,
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
        text_config=text_config("qwen2", words, layers),
        image_token_index=words.image_token_id,
        video_token_index=words.video_token_id,
        image_grid_pinpoints=grids,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )


save_vicuna = functools.partial(save_next, "llama", VICUNA)
save_mistral = functools.partial(save_next, "mistral", MISTRAL)
