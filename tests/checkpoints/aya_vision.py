"""A tiny Aya Vision: 36 vision tokens to a tile of 48 × 48 pixels, in up to three tiles and the whole."""

from __future__ import annotations

from pathlib import Path

from checkpoints.parts import TOWER, text_config, write
from checkpoints.words import trained
from transformers import AyaVisionProcessor, GotOcr2ImageProcessor, SiglipVisionConfig

ROLES = {"user": "<|USER_TOKEN|>", "assistant": "<|CHATBOT_TOKEN|><|START_RESPONSE|>", "system": "<|SYSTEM_TOKEN|>"}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|START_OF_TURN_TOKEN|>"
    f"{{{{ {ROLES}[message['role']] }}}}"
    "{% for part in message['content'] | sort(attribute='type') %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}<|END_RESPONSE|>{% endif %}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{% endif %}"
)
"""The published ones begin with a page of instructions, which is left out."""
SPECIAL = ["<PAD>", "<UNK>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>"]
SPECIAL += ["<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|IMG_PATCH|>"]
SPECIAL += ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL", "TILE"]


def save(folder: Path, layers: int = 4, window: int = 4096) -> Path:
    words = trained(
        SPECIAL,
        bos_token="<BOS_TOKEN>",
        eos_token="<|END_OF_TURN_TOKEN|>",
        unk_token="<UNK>",
        pad_token="<PAD>",
    )
    AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessor(size={"height": 48, "width": 48}, crop_to_patches=True, max_patches=3),
        tokenizer=words,
        patch_size=8,
        img_size=48,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return write(
        "aya_vision",
        folder,
        words,
        vision_config=SiglipVisionConfig(**{**TOWER, "image_size": 48}, vision_use_head=False),
        text_config={
            **text_config("cohere2", words, layers),
            "logit_scale": 0.25,
            "sliding_window": window,
            "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
        },
        image_token_index=words.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
