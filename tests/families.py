"""The table that tests cross with every method: a family of models is a row of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.gemma3 import save as save_gemma3
from checkpoints.gemma4 import save as save_gemma4
from checkpoints.glm4v import save as save_glm4v
from checkpoints.internvl import save_internvl
from checkpoints.llava_next import save_onevision, save_vicuna
from checkpoints.mistral3 import save as save_mistral3
from checkpoints.paligemma import save as save_paligemma
from checkpoints.qwen_vl import save_qwen2_5_vl, save_qwen2_vl, save_qwen3_5, save_qwen3_vl
from checkpoints.smolvlm import save_idefics3, save_smolvlm
from lmms_tiny import save_tiny_llava

NO_TOWER = "this model has none: use a method that prunes in the language model"
NO_GRID = "tokens are no grid"
UNSEEN = "chooses by what the vision tower computes"
NO_CLASS = "of the class token, and this model's vision tower has none"
MADE = "puts in tokens of its own, and .* has no place: use a method that only drops tokens"
NO_PLACE = "merges tokens, and .* has no place: use a method or variant that only drops tokens"

M_ROPE = {"tome": NO_TOWER, "merging": NO_PLACE}
OWN_TOKENS = {"tome": NO_TOWER, "downsample": NO_GRID, "looking": UNSEEN}
"""Of families whose tokens are not simply those of the tower."""


@dataclass(frozen=True)
class Row:
    """`save(folder, layers)`: a tiny random model with a real tokenizer and processor, as a checkpoint.

    `refuses`: methods that it cannot run ("merging": those that merge tokens; "looking": those that look at the vision
    tower), and the reason that is given.
    `answer_types`: inputs of tokens, and what they are for those of an answer. `hybrid`: every other layer attends, the
    second first, so that stages are after those. `needs_images`: it takes no prompt without one.
    """

    save: Callable[..., Path]
    refuses: Mapping[str, str] = field(default_factory=dict)
    answer_types: Mapping[str, int] = field(default_factory=dict)
    hybrid: bool = False
    needs_images: bool = False

    def asked(self, documents: Iterable[Any]) -> list[Any]:
        """Those of some documents that it can be asked."""
        return [document for document in documents if document["images"] or not self.needs_images]

    @property
    def layers(self) -> int:
        return 16 if self.hybrid else 8

    @property
    def rounding(self) -> float:
        """Layers that carry a state do so in float32, in chunks that begin elsewhere in a batch; that grows."""
        return 5e-3 if self.hybrid else 1e-5

    def placed(self, schedule: str, method: str) -> str:
        """A schedule for eight layers as one for those of the family; some look at the layer behind their own."""
        if not self.hybrid:
            return schedule
        first = 2 if method in ("pdrop", "vscan") else 1
        return re.sub(r"(?<![\d.])(\d+):", lambda found: f"{2 * int(found[1]) + first}:", schedule)


FAMILIES = {
    "llava": Row(save_tiny_llava),
    "internvl": Row(save_internvl, {"tome": NO_TOWER}),
    "llava_next": Row(save_vicuna, OWN_TOKENS),
    "llava_onevision": Row(save_onevision, OWN_TOKENS),
    "qwen2_vl": Row(save_qwen2_vl, M_ROPE),
    "qwen2_5_vl": Row(save_qwen2_5_vl, M_ROPE),
    "qwen3_vl": Row(save_qwen3_vl, M_ROPE),
    "qwen3_5": Row(save_qwen3_5, M_ROPE, hybrid=True),
    "gemma3": Row(save_gemma3, {"tome": NO_TOWER, "merging": NO_PLACE}),
    "glm4v": Row(save_glm4v, M_ROPE),
    "mistral3": Row(save_mistral3, {"tome": NO_TOWER, "prumerge": NO_CLASS}),
    "gemma4": Row(save_gemma4, {**OWN_TOKENS, "merging": NO_PLACE}),
    "paligemma": Row(
        save_paligemma,
        {"tome": NO_TOWER, "merging": NO_PLACE},
        answer_types={"token_type_ids": 1},
        needs_images=True,
    ),
    "smolvlm": Row(save_smolvlm, {"tome": NO_TOWER, "prumerge": NO_CLASS}),
    "idefics3": Row(save_idefics3, {"tome": NO_TOWER, "prumerge": NO_CLASS}),
}


LOOKING = ("fastervlm", "hiprune", "vscan", "visionzip", "vispruner", "scope", "holov", "prumerge")
MAKING = ("visionzip", "holov", "prumerge")
"""Methods that look at the vision tower, and those that put in tokens of their own."""
ALIKE = ("llava", "internvl")
"""Families whose images all have as many tokens: what is above the engine is tested on them."""


def crossed(
    methods: Iterable[tuple[str, Any]], families: Iterable[str] = tuple(FAMILIES)
) -> list[tuple[str, str, Any]]:
    """(family, method, …) for every method that the family can run."""
    runs = [(name, *method) for method in methods for name in families if not refused(FAMILIES[name], *method)]
    return [(name, method, _placed(FAMILIES[name], method, options)) for name, method, options in runs]


def _placed(row: Row, method: str, options: Any) -> Any:
    """Options as a dictionary, or as arguments in a row."""
    if isinstance(options, str):
        return row.placed(options, method)
    return {name: row.placed(value, method) if name == "schedule" else value for name, value in options.items()}


def refused(row: Row, method: str, options: Any) -> str | None:
    """The reason why a family does not run a method: those that merge are named apart."""
    if method in MAKING and "merging" in row.refuses:
        return MADE
    merges = method == "sparsevlm" and "plus" not in str(options)
    reason = row.refuses.get("merging" if merges else method)
    return reason or (row.refuses.get("looking") if method in LOOKING else None)
