"""A tiny Mistral 3: 8 × 8 pixels to a vision token, rows of them set apart."""

from __future__ import annotations

from pathlib import Path

from checkpoints.parts import TOWER, text_config, write
from checkpoints.words import trained
from transformers import PixtralImageProcessor, PixtralProcessor, PixtralVisionConfig

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST]"
    "{% elif message['role'] == 'system' %}[SYSTEM_PROMPT]{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}[IMG]{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% if message['role'] == 'user' %}[/INST]{% elif message['role'] == 'system' %}[/SYSTEM_PROMPT]"
    "{% else %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Without what the published one says as the system where nobody else does, today's date in it."""


def save(folder: Path, layers: int = 4) -> Path:
    marks = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    words = trained(
        ["<unk>", "<s>", "</s>", "<pad>", *marks],
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    PixtralProcessor(
        image_processor=PixtralImageProcessor(size={"longest_edge": 96}, patch_size={"height": 8, "width": 8}),
        tokenizer=words,
        patch_size=4,
        spatial_merge_size=2,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return write(
        "mistral3",
        folder,
        words,
        vision_config=PixtralVisionConfig(**{**TOWER, "image_size": 96, "head_dim": 16}, num_channels=3),
        text_config={**text_config("mistral", words, layers), "head_dim": 16, "sliding_window": None},
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
