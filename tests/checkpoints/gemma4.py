"""Tiny Gemma 4, up to 70 vision tokens to an image: of 31B's kind, of E4B's, and with what both have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoints.parts import text_config, write
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
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] | trim }}"
    "{% else %}<|{{ part['type'] }}|>{% endif %}{% endfor %}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
SILENT = TEMPLATE.replace("<|turn>model\n{% endif %}", "<|turn>model\n<|channel>thought\n<channel|>{% endif %}")
"""31B's writes besides that nothing was thought."""


def save(folder: Path, layers: int = 4, kind: str = "both") -> Path:
    """`kind`: "31B", whose images are seen both ways and whose full layers have keys for values; "E4B", whose layers
    have inputs of their own, the later half of them no keys; "both": inputs of their own, and images seen both ways.
    """
    marks = {
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "image_token": "<|image|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "audio_token": "<|audio|>",
    }
    words = trained(
        [
            "<pad>",
            "<eos>",
            "<bos>",
            "<unk>",
            "<|turn>",
            "<turn|>",
            "<|channel>",
            "<channel|>",
            *marks.values(),
            "<|video|>",
        ],
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens=marks,
    )
    sizes: dict[str, Any] = {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 3}
    Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(**sizes),
        tokenizer=words,
        video_processor=Gemma4VideoProcessor(**sizes),
        chat_template=SILENT if kind == "31B" else TEMPLATE,
    ).save_pretrained(folder)
    own: dict[str, Any] = {"hidden_size_per_layer_input": 0 if kind == "31B" else 8}
    if kind != "E4B":
        own["use_bidirectional_attention"] = "vision"
    if kind != "both":
        own |= {"global_head_dim": 32, "layer_types": ["sliding_attention", "full_attention"] * (layers // 2)}
    if kind == "31B":
        own |= {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "final_logit_softcapping": 30.0}
    if kind == "E4B":
        own |= {"num_kv_shared_layers": layers // 2, "final_logit_softcapping": 30.0}
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
            "initializer_range": 0.3,  # positions are ones at first, beside which smaller pictures are all alike
        },
        text_config={
            **text_config("gemma4_text", words, layers, spread=0.2),
            "head_dim": 16,
            "sliding_window": 512,
            "vocab_size_per_layer_input": len(words),
            **own,
        },
        audio_config=None,
        initializer_range=0.3,
        eos_token_id=[words.eos_token_id, words.convert_tokens_to_ids("<turn|>")],
        image_token_id=words.image_token_id,
        boi_token_id=words.boi_token_id,
        eoi_token_id=words.eoi_token_id,
        audio_token_id=words.audio_token_id,
        video_token_id=words.convert_tokens_to_ids("<|video|>"),
        tie_word_embeddings=False,
    )
