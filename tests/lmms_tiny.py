"""Random-weight models of 4 layers with a real tokenizer and processor, saved in a checkpoint's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from checkpoints.parts import TOWER, text_config, write
from checkpoints.words import llama_words
from lmms_eval.models import get_model
from PIL import Image as Picture
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlavaProcessor,
)

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def save_tiny_llava(folder: Path, layers: int = 4) -> Path:
    """Write the checkpoint to `folder`; 36 vision tokens per image of 24 × 24 pixels."""
    words = llama_words()
    LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}, do_center_crop=True
        ),
        tokenizer=words,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return write(
        "llava",
        folder,
        words,
        vision_config=CLIPVisionConfig(**TOWER),
        text_config={**text_config("llama", words, layers), "num_key_value_heads": 4},
        image_token_index=words.image_token_id,
        image_seq_length=36,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def load_wrapper(
    checkpoint: Path,
    family: str,
    method: str = "vanilla",
    arguments: str = "",
    batch_size: int = 4,
    simple: bool = False,
    dtype: str = "float32",
) -> Any:
    """The model `method`_`family` as lmms-eval's command line makes it; `arguments`: `,key=value…`."""
    return get_model(f"{method}_{family}", simple).create_from_arg_string(
        f"pretrained={checkpoint},dtype={dtype},device=cpu{arguments}", {"batch_size": str(batch_size)}
    )


def mixed_documents() -> list[dict[str, Any]]:
    """Questions of unequal length over 1, 0, 2, 1 images of unequal shape."""
    rng = np.random.default_rng(0)
    documents = []
    for index, count in enumerate((1, 0, 2, 1)):
        sizes = [(40 + 7 * index, 70 - 10 * image, 3) for image in range(count)]
        images = [Picture.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]
        documents.append({"images": images, "question": "Is there a red circle? " * (index + 1)})
    return documents
