"""The published layout: how its tensors are called, and what config.json says where it can be converted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from adaptinfer_eval.sweep.errors import SweepError

EXAMPLE = "OpenGVLab/InternVL-Chat-ViT-6B-Vicuna-7B"
TOWER = "model.vision_tower.vision_tower."
"""How the tower's tensors begin where a checkpoint holds them; in a folder of their own they have no such beginning."""
HEAD_SIZE = 128
"""Of InternViT-6B (3200 wide, 25 heads): no tensor tells."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the pixels (ImageNet's); the original has them in its code."""
COMPUTED = ".rotary_emb.inv_freq"
"""Buffers that old checkpoints hold and models compute by themselves."""
_NAMES = (
    (r"^model\.language_model\.", "model."),
    (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"^model\.vision_tower\.", TOWER),
    (r"\.cls_token$", ".class_embedding"),
    (r"\.position_embeddings$", ".position_embedding"),
    (r"\.patch_embeddings\.projection\.", ".patch_embedding."),
    (r"\.encoder\.layer\.", ".encoder.layers."),
    (r"\.lambda_(\d)$", r".ls\1"),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.projection_layer\.", ".attn.proj."),
    (r"\.attention\.[qkv]_proj\.", ".attn.qkv."),
    (r"\.attention\.([qk]_norm)\.", r".attn.\1."),
)
"""Patterns of transformers' names → the published ones, one after the other."""
_CHAT = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "image_aspect_ratio": "pad",
    "tie_word_embeddings": False,
}
_TOWER = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "norm_type": "rms_norm", "num_channels": 3}
"""In transformers the norms of queries and keys have this epsilon, whatever that of the others is."""
_NO_TEXT = {"_name_or_path", "architectures", "dtype", "model_type", "transformers_version", "vocab_size"}


def published(name: str) -> str:
    """The published name of the tensor that transformers calls `name`."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def text_config(said: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of the language model."""
    known = {*LlamaConfig().to_dict(), "rope_theta", "rope_scaling"} - _NO_TEXT
    return {"model_type": "llama", **{key: value for key, value in said.items() if key in known}}


def check_chat(path: Path, said: Mapping[str, Any]) -> None:
    """SweepError unless config.json (`path`, which says `said`) is of this layout."""
    tower, read = said.get("mm_vision_tower"), said.get("mm_vision_select_layer")
    if not isinstance(tower, str) or "internvit6b" not in re.sub("[-_]", "", tower.lower()):
        raise SweepError(
            f"{path} is not of InternVL-Chat in the layout of LLaVA's code (its mm_vision_tower is {tower!r}, and no "
            f"InternViT-6B): give a checkpoint like {EXAMPLE}"
        )
    if not isinstance(read, int):
        raise SweepError(f"{path} has mm_vision_select_layer={read!r}: a whole number is wanted, download it again")
    _same(path, said, _CHAT)


def check_tower(path: Path, said: Mapping[str, Any]) -> None:
    """SweepError where the tower's config.json (`path`, which says `said`) is of another than InternViT-6B."""
    _same(path, said, _TOWER)


def _same(path: Path, said: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key, value in wanted.items():
        if said.get(key, value) != value:
            raise SweepError(f"{path} has {key}={said[key]!r}: only {value!r} can be converted")
