"""The table that tests cross with every method: a family of models is a row of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmms_tiny import save_tiny_internvl, save_tiny_llava

NO_TOWER = "this model has none: use a method that prunes in the language model"
UNEQUAL = "have unequal numbers of them: use a method that prunes between layers"
AXES = "numbers them on three axes: use a method that prunes between layers"
NO_PLACE = "on which a merged token has no place: use a method or variant that only drops tokens"


@dataclass(frozen=True)
class Row:
    """`save(folder, layers)`: a tiny random model with a real tokenizer and processor, as a checkpoint.

    `refuses`: methods that it cannot run, and the reason that is given. `rounding`: how far logits in a batch may be
    from those of single prompts. `answer_types`: inputs of tokens, and what they are for those of an answer.
    """

    save: Callable[..., Path]
    refuses: Mapping[str, str] = field(default_factory=dict)
    rounding: float = 1e-4
    answer_types: Mapping[str, int] = field(default_factory=dict)


FAMILIES = {
    "llava": Row(save_tiny_llava),
    # Rounding: visible behind its projector's LayerNorm, without pruning too.
    "internvl": Row(save_tiny_internvl, {"tome": NO_TOWER}, rounding=3e-4),
}


# Every method, with options that fit 36 vision tokens and 8 layers.
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("vanilla", {}),
    ("adaptinfer", {"schedule": "1:30,3:12,5:4"}),
    ("adaptinfer", {"schedule": "0:20,5:0", "variant": "paper"}),
    ("fastv", {"schedule": "1:9"}),
    ("pdrop", {"schedule": "1:0.4,3:0.2,5:0.05"}),
    ("sparsevlm", {"schedule": "1:24,3:16,5:9"}),
    ("sparsevlm", {"schedule": "1:30,3:12", "variant": "plus", "priority_heads": 2}),
    ("random", {"schedule": "1:20,4:6"}),
    ("foreground", {"schedule": "1:20,4:6"}),
    ("tome", {"budget": 20}),
    ("downsample", {"budget": 20}),
]


def crossed(methods: Iterable[tuple[str, Any]]) -> list[tuple[str, str, Any]]:
    """(family, method, …) for every method that the family can run."""
    return [(name, *method) for method in methods for name, row in FAMILIES.items() if method[0] not in row.refuses]
