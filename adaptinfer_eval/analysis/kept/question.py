"""A question with what methods answered and kept, as figures show it; wherever it comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from adaptinfer_eval.analysis.kept.stages import Stage, side_of
from adaptinfer_eval.sweep.errors import SweepError

LONGEST = 160
"""Letters of an answer in a figure."""


@dataclass(frozen=True)
class Answer:
    """What a method answered; `verdict`: right, wrong or partly right, empty where it is not known.

    `stages`: empty where every vision token stays. As a text, it is short and has its verdict's mark.
    """

    method: str
    text: str
    verdict: str
    stages: Sequence[Stage]

    def __str__(self) -> str:
        mark = {"right": "✓ ", "wrong": "✗ ", "partly right": "≈ "}.get(self.verdict, "")
        return mark + textwrap.shorten(self.text or "(no answer)", LONGEST, placeholder=" …")


@dataclass(frozen=True)
class Question:
    """`where`: which one it is. `image`: the square that the model saw. `target`: the right answer, empty if unknown.

    SweepError where the vision tokens of a stage are not the patches of `image`.
    """

    where: str
    text: str
    target: str
    image: Image.Image
    answers: Sequence[Answer]

    def __post_init__(self) -> None:
        for tokens in {len(stage.kept) for answer in self.answers for stage in answer.stages}:
            if side_of(tokens) is None:
                raise SweepError(
                    f"{self.where}: where its {tokens} vision tokens lie in the picture is not known, for they are not "
                    "the patches of one square: choose a question about one picture, which the model sees whole, uncut"
                )
