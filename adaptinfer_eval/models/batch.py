"""What is asked together, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adaptinfer_eval.models.features import Features
from adaptinfer_eval.models.tally import Cost
from adaptinfer_eval.pruning.prefix import SharedPrefix
from adaptinfer_eval.pruning.trunk import Trunk


@dataclass(frozen=True)
class Prompt:
    """A conversation as text with one image token per image, its images, and its videos (`Clip`).

    `continuation`: the text to score behind it, if it is to be scored. `counted`: whether it is in the audit.
    `question`: what the user says beside the images, for methods that read it.
    """

    text: str
    images: Sequence[Any]
    continuation: str = ""
    counted: bool = True
    videos: Sequence[Any] = ()
    question: str = ""


@dataclass(frozen=True)
class Batch:
    """Prompts and the model's inputs for them, on the CPU, left-padded or as `prefix` has it; input_ids (B, L).

    `shown`: of the inputs, those of each prompt's images. `prefix`: what prompts about the same images begin with,
    where there are any. `features`: what the vision tower made of the images, where they have been encoded already.
    `trunk`: what the decoder's first layers make of it, where it is answered under several methods.
    `other`: the same images under other prompts, for methods that follow what another keeps there; or why there are
    none.
    """

    prompts: Sequence[Prompt]
    inputs: Any
    shown: Sequence[Mapping[str, Tensor]]
    prefix: SharedPrefix | None = None
    features: Features | None = None
    trunk: Trunk | None = None
    other: Batch | Exception | None = None


@dataclass(frozen=True)
class Answer:
    """Text, and what it cost."""

    text: str
    cost: Cost
