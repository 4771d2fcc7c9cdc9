"""A tiny Gemma 4 whose layers have their own keys, and inputs of their own: up to 70 vision tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoints.llava_next import text_config, write
from checkpoints.words import trained
from transformers import (
    Gemma4AudioFeatureExtractor,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
)

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}\n\n<|image|>\n\n"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)


def save(folder: Path, layers: int = 4) -> Path:
    marks = {
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "image_token": "<|image|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "audio_token": "<|audio|>",
    }
    words = trained(
        ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", *marks.values(), "<|video|>"],
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens=marks,
    )
    sizes: dict[str, Any] = {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 3}
    Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(**sizes),
        tokenizer=words,
        video_processor=Gemma4VideoProcessor(**sizes),
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    text = text_config("gemma4_text", words, layers, spread=0.2)
    return write(
        "gemma4",
        folder,
        words,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 4,
            "pooling_kernel_size": 3,
            "position_embedding_size": 64,
        },
        text_config={
            **text,
            "head_dim": 16,
            "sliding_window": 512,
            "vocab_size_per_layer_input": len(words),
            "hidden_size_per_layer_input": 8,
            "use_bidirectional_attention": "vision",
        },
        audio_config=None,
        image_token_id=words.image_token_id,
        boi_token_id=words.boi_token_id,
        eoi_token_id=words.eoi_token_id,
        audio_token_id=words.audio_token_id,
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
        tie_word_embeddings=False,
    )
