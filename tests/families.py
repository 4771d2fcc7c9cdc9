"""The table that tests cross with every method: a family of models is a row of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmms_tiny import save_tiny_internvl, save_tiny_llava
from tiny_models import internvl, llava


@dataclass(frozen=True)
class Row:
    """`build(attention, decoder)`: a tiny random model that takes `tiny_models.prompt`, over the decoder of that type.

    `save(folder, layers)`: one with a real tokenizer and processor, as a checkpoint. `refuses`: methods that it cannot
    run, and the reason that is given. `rounding`: how far logits in a batch may be from those of single prompts.
    """

    build: Callable[..., Any]
    save: Callable[..., Path]
    refuses: Mapping[str, str] = field(default_factory=dict)
    rounding: float = 1e-4


FAMILIES = {
    "llava": Row(llava, save_tiny_llava),
    "internvl": Row(
        internvl,
        save_tiny_internvl,
        refuses={"tome": "this model has none: use a method that prunes in the language model"},
        rounding=3e-4,  # visible behind its projector's LayerNorm, without pruning too
    ),
}


def crossed(methods: Iterable[tuple[str, Any]]) -> list[tuple[str, str, Any]]:
    """(family, method, …) for every method that the family can run."""
    return [(name, *method) for method in methods for name, row in FAMILIES.items() if method[0] not in row.refuses]
