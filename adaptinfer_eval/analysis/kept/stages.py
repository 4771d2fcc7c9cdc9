"""What became of a prompt's vision tokens, stage by stage, read from an answer. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptinfer_eval.models.kept import unpack, unpack_numbers


@dataclass(frozen=True, eq=False)
class Stage:
    """What goes on after `layer` (-1: into the decoder).

    `kept` (V,) bool: the vision tokens that go on as they are. `group` (V,) int: the merged token that a vision token
    has become part of, from 1; 0 where it is part of none.
    """

    layer: int
    kept: NDArray[np.bool_]
    group: NDArray[np.int64]

    @property
    def merged(self) -> int:
        """Merged tokens that go on."""
        return len(np.unique(self.group[self.group > 0]))

    @property
    def left(self) -> NDArray[np.bool_]:
        """(V,): whether anything of a vision token goes on."""
        return self.kept | (self.group > 0)

    @property
    def clear(self) -> NDArray[np.bool_]:
        """(V,): whether a vision token goes on unmixed: as it is, or as a merged token of itself alone."""
        alone: NDArray[np.bool_] = np.bincount(self.group)[self.group] == 1
        return self.kept | (alone & (self.group > 0))

    @property
    def count(self) -> str:
        """`133`, `66 + 14 merged`, or `64 merged`."""
        kept, merged = int(self.kept.sum()), self.merged
        return " + ".join([str(kept)] * (kept > 0 or not merged) + [f"{merged} merged"] * (merged > 0))

    @property
    def title(self) -> str:
        where = "before the decoder" if self.layer < 0 else f"after layer {self.layer}"
        return f"{where}: {self.count}"


def read_stages(answer: Mapping[str, Any], vision_tokens: int) -> list[Stage]:
    """The stages of an answer as journals have it (`models/kept.py`), in order; [] where every token stays.

    `answer`: `kept`, and where tokens were merged `assign` or `groups`.
    """
    if "assign" in answer:
        nothing = np.zeros(vision_tokens, bool)
        return [Stage(-1, nothing, unpack_numbers(answer["assign"], vision_tokens) + 1)]
    groups = answer.get("groups", {})
    none = np.zeros(vision_tokens, np.int64)
    return [
        Stage(
            int(layer),
            unpack(answer["kept"][layer], vision_tokens),
            unpack_numbers(groups[layer], vision_tokens) if layer in groups else none,
        )
        for layer in sorted(answer["kept"], key=int)
    ]


def counts(stages: Sequence[Stage]) -> str:
    """`133 → 27 → 3`: what is left after each stage; empty where nothing was dropped."""
    return " → ".join(stage.count for stage in stages)


def side_of(vision_tokens: int) -> int | None:
    """Patches along a side when the prompt's vision tokens are one square picture in row-major order, else None."""
    side = round(vision_tokens**0.5)
    return side if side * side == vision_tokens else None
