"""Tiny LLaVA-NeXT, over Vicuna's decoder or Mistral's, and LLaVA-OneVision: 36 vision tokens to 24 × 24 pixels."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from checkpoints.words import trained
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
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


def save_next(decoder: str, template: str, folder: Path, layers: int = 4) -> Path:
    words = trained(
        ["<unk>", "<s>", "</s>", "<pad>", "<image>"],
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
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
