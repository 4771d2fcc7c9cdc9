"""A tiny SmolVLM2 and an Idefics3 of its form: 36 vision tokens to a tile of 24 × 24 pixels."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from checkpoints.parts import TOWER, text_config, write
from checkpoints.words import trained
from transformers import (
    Idefics3ImageProcessor,
    Idefics3Processor,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'image' %}<image>{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def save(family: str, folder: Path, layers: int = 4) -> Path:
    places = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    words = trained(
        [
            "<|im_start|>",
            "<|im_end|>",
            "<end_of_utterance>",
            "<fake_token_around_image>",
            "<image>",
            "<global-img>",
            *places,
        ],
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
        extra_special_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        },
    )
    sizes: dict[str, Any] = {"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 24}}
    if family == "smolvlm":
        processor: Any = SmolVLMProcessor(
            image_processor=SmolVLMImageProcessor(**sizes),
            tokenizer=words,
            video_processor=SmolVLMVideoProcessor(**sizes),
            image_seq_len=36,
            chat_template=TEMPLATE,
        )
    else:
        processor = Idefics3Processor(
            image_processor=Idefics3ImageProcessor(**sizes), tokenizer=words, image_seq_len=36, chat_template=TEMPLATE
        )
    processor.save_pretrained(folder)
    return write(
        family,
        folder,
        words,
        vision_config={**TOWER, "patch_size": 2},
        text_config=text_config("llama", words, layers),
        scale_factor=2,
        image_token_id=words.image_token_id,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=False,
    )


save_smolvlm, save_idefics3 = functools.partial(save, "smolvlm"), functools.partial(save, "idefics3")
