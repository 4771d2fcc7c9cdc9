"""Methods that keep what another method keeps when something else is asked about the same images."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from adaptinfer_eval.methods.layer import LayerMethod

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention, Embeddings

Following = TypeVar("Following", bound="FollowingMethod")


@dataclass(frozen=True, kw_only=True)
class FollowingMethod(LayerMethod):
    """Keeps the vision tokens that `leader` keeps under another prompt, stage by stage.

    Whoever answers runs the leader first, over another prompt with the same images (`models/answering.py` does), and
    attaches `following` what came of it; by itself, such a method does not know what to keep.
    """

    queries: ClassVar = "none"
    outlived: ClassVar[Tensor | None] = None
    """Set by `following`, for one batch."""

    @property
    @abstractmethod
    def leader(self) -> LayerMethod:
        """The method that chooses. It has the same schedule, and merges nothing."""

    def following(self: Following, outlived: Tensor) -> Following:
        """This method for one batch; `outlived` (B, V): how many of its stages the leader kept each vision token."""
        informed = copy.copy(self)
        object.__setattr__(informed, "outlived", outlived)
        return informed

    def prepare(self, embeddings: Embeddings) -> Tensor:
        mask = embeddings.vision_mask
        if self.outlived is None:
            raise ValueError(
                f"{self.name} keeps what {self.leader.name} keeps under another prompt, and was not told what that is: "
                "use it in a sweep or as a model of lmms-eval, which ask the other prompt first"
            )
        if self.outlived.shape[1] != mask.shape[1] or len(mask) % len(self.outlived):
            raise ValueError(
                f"{self.name} was told of {tuple(self.outlived.shape)} vision tokens and is to choose among "
                f"{tuple(mask.shape)}: ask both prompts about the same images"
            )
        beams = len(mask) // len(self.outlived)
        return self.outlived.to(mask.device).repeat_interleave(beams, 0)

    def text_weights(self, attention: Attention) -> Any:  # of any type, whatever the leader's class says
        """None: the question's own text guides nothing."""
        return None

    def score(self, attention: Attention) -> Tensor:
        """The longer the leader kept a token, the higher: the best are those that it kept at this stage."""
        assert attention.prepared is not None
        return attention.prepared.gather(1, attention.numbers())
