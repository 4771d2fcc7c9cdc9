"""Methods that prune both before the language model and between its layers, with one budget for both."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptinfer_eval.methods.method import Method
from adaptinfer_eval.methods.schedule import Per

if TYPE_CHECKING:
    from adaptinfer_eval.methods.layer import LayerMethod


@dataclass(frozen=True, kw_only=True)
class TwoPlaceMethod(Method):
    """A subclass says what it is in each place; the engine attaches both, and what follows is worked out here.

    In the decoder, the prompt is what went into it: schedules there count tokens, or shares, of those. It merges none
    there. `budget`, `per`: of both places together.
    """

    budget: float | None = None
    per: Per = "image"

    @abstractmethod
    def inside(self, num_layers: int) -> LayerMethod: ...

    def going_in(self, num_layers: int, vision_tokens: int, images: int) -> int:
        """Vision tokens that enter the decoder; ValueError where those are more than there are."""
        before, image_tokens = self.before(num_layers), vision_tokens // images
        if before is None:
            return vision_tokens
        if (most := max(before.image_budgets([image_tokens] * images))) > image_tokens:
            raise ValueError(
                f"{self.name} lets {most} tokens of an image in, which has only {image_tokens}: choose a smaller budget"
            )
        return before.entering(1, vision_tokens, images)[0]

    def entering(self, num_layers: int, vision_tokens: int, images: int = 1) -> list[int]:
        going_in = self.going_in(num_layers, vision_tokens, images)
        return self.inside(num_layers).entering(num_layers, going_in, images)

    def describe(self, num_layers: int, vision_tokens: int, images: int = 1) -> str:
        before, going_in = self.before(num_layers), self.going_in(num_layers, vision_tokens, images)
        inside = self.inside(num_layers).describe(num_layers, going_in, images)
        return inside if before is None else f"{before.describe(num_layers, vision_tokens, images)},{inside}"
