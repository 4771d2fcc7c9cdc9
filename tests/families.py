"""The table that tests cross with every method: a family of models is a row of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.gemma3 import save as save_gemma3
from checkpoints.glm4v import save as save_glm4v
from checkpoints.internvl import save_internvl
from checkpoints.llava_next import save_onevision, save_vicuna
from checkpoints.mistral3 import save as save_mistral3
from checkpoints.qwen_vl import save_qwen2_5_vl, save_qwen2_vl, save_qwen3_vl
from checkpoints.smolvlm import save_idefics3, save_smolvlm
from lmms_tiny import save_tiny_llava

NO_TOWER = "this model has none: use a method that prunes in the language model"
UNEQUAL = "have unequal numbers of them: use a method that prunes between layers"
BOTH_WAYS = "shows an image's tokens to each other by masks that are made before"
AXES = "numbers them on three axes: use a method that prunes between layers"
NO_PLACE = "merges tokens, and .* has no place: use a method or variant that only drops tokens"

M_ROPE = {"tome": NO_TOWER, "downsample": AXES, "merging": NO_PLACE}


@dataclass(frozen=True)
class Row:
    """`save(folder, layers)`: a tiny random model with a real tokenizer and processor, as a checkpoint.

    `refuses`: methods that it cannot run ("merging": those that merge tokens), and the reason that is given.
    `answer_types`: inputs of tokens, and what they are for those of an answer.
    """

    save: Callable[..., Path]
    refuses: Mapping[str, str] = field(default_factory=dict)
    answer_types: Mapping[str, int] = field(default_factory=dict)


FAMILIES = {
    "llava": Row(save_tiny_llava),
    "internvl": Row(save_internvl, {"tome": NO_TOWER}),
    "llava_next": Row(save_vicuna, {"tome": NO_TOWER, "downsample": UNEQUAL}),
    "llava_onevision": Row(save_onevision, {"tome": NO_TOWER, "downsample": UNEQUAL}),
    "qwen2_vl": Row(save_qwen2_vl, M_ROPE),
    "qwen2_5_vl": Row(save_qwen2_5_vl, M_ROPE),
    "qwen3_vl": Row(save_qwen3_vl, M_ROPE),
    "gemma3": Row(save_gemma3, {"tome": NO_TOWER, "downsample": BOTH_WAYS, "merging": NO_PLACE}),
    "glm4v": Row(save_glm4v, M_ROPE),
    "mistral3": Row(save_mistral3, {"tome": NO_TOWER, "downsample": UNEQUAL}),
    "smolvlm": Row(save_smolvlm, {"tome": NO_TOWER}),
    "idefics3": Row(save_idefics3, {"tome": NO_TOWER}),
}


ALIKE = ("llava", "internvl")
"""Families whose images all have as many tokens: what is above the engine is tested on them."""


def crossed(
    methods: Iterable[tuple[str, Any]], families: Iterable[str] = tuple(FAMILIES)
) -> list[tuple[str, str, Any]]:
    """(family, method, …) for every method that the family can run."""
    return [(name, *method) for method in methods for name in families if not refused(FAMILIES[name], *method)]


def refused(row: Row, method: str, options: Any) -> str | None:
    """The reason why a family does not run a method: those that merge are named apart."""
    merges = method == "sparsevlm" and "plus" not in str(options)
    return row.refuses.get("merging" if merges else method)
