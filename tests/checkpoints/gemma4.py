"""Tiny Gemma 4, up to 70 vision tokens to an image: of E4B's kind, where later layers have no keys of their own, and of
31B's, where tokens of an image see each other.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from checkpoints.llava_next import text_config, write
from checkpoints.words import trained
from transformers import Gemma4AudioFeatureExtractor, Gemma4ImageProcessor, Gemma4Processor, Gemma4VideoProcessor

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] | trim }}"
    "{% else %}<|{{ part['type'] }}|>{% endif %}{% endfor %}<turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n"
)
THOUGHTS: dict[bool, str] = {True: "{% endif %}", False: "<|channel>thought\n<channel|>{% endif %}"}
"""What 31B's template writes besides: no thoughts, unless they are asked for."""
MARKS = {f"{role}_token": f"<|{name}>" for role, name in (("boi", "image"), ("boa", "audio"))}
MARKS |= {f"{role}_token": f"<{name}|>" for role, name in (("eoi", "image"), ("eoa", "audio"))}
MARKS |= {f"{name}_token": f"<|{name}|>" for name in ("image", "audio")}


def save(small: bool, folder: Path, layers: int = 4) -> Path:
    """Layers with a window and those that see all take turns; the tower of sounds is left out."""
    words = trained(
        ["<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", *MARKS.values()],
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        extra_special_tokens=MARKS,
    )
    Gemma4Processor(  # which adds `<|video|>`
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70),
        tokenizer=words,
        video_processor=Gemma4VideoProcessor(patch_size=4, max_soft_tokens=70),
        image_seq_length=70,
        chat_template=TEMPLATE + THOUGHTS[small],
    ).save_pretrained(folder)
    marks = {**MARKS, "video_token": "<|video|>"}
    ids: dict[str, Any] = {f"{name}_id": words.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    ids["eoa_token_index"] = ids.pop("eoa_token_id")  # as it is called there
    own: dict[str, Any] = {
        "hidden_size_per_layer_input": 8 if small else 0,
        "num_kv_shared_layers": layers // 2 * small,
    }
    if not small:
        own |= {"use_bidirectional_attention": "vision", "attention_k_eq_v": True, "num_global_key_value_heads": 1}
    return write(
        "gemma4",
        folder,
        words,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "patch_size": 4,
            "position_embedding_size": 256,
            "initializer_range": 0.3,  # positions are ones at first: beside them pictures must weigh something
        },
        text_config={
            **text_config("gemma4_text", words, layers),
            "head_dim": 16,
            "global_head_dim": 32,
            "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
            "vocab_size_per_layer_input": len(words),
            "final_logit_softcapping": 30.0,
            **own,
        },
        audio_config=None,
        initializer_range=0.3,
        eos_token_id=[words.eos_token_id, words.convert_tokens_to_ids("<turn|>")],
        tie_word_embeddings=False,
        **ids,
    )


save_gemma4, save_gemma4_31b = functools.partial(save, True), functools.partial(save, False)
