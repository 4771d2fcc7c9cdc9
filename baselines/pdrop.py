"""PyramidDrop: a geometric pyramid of vision tokens, ranked by the layer that is about to run.

Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
CVPR 2025, arXiv 2410.17247.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.budget import OnDemand, given_layers, scale_layers
from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.schedule import Schedule, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention


@dataclass(frozen=True, kw_only=True)
class PDrop(LayerMethod):
    """PyramidDrop (arXiv 2410.17247): stage i keeps the share λⁱ of the image's tokens.

    Before layers 2, 8, 16 of 32 (after 1, 7, 15), the author's advice for small budgets, with λ solved for the budget;
    `schedule="original"` is the published one, before layers 8, 16, 24 with λ = 0.5. The last prompt token's attention
    in the layer that is about to run ranks the vision tokens.

    Every stage keeps a share of the original tokens. In an explicit schedule, keeps are numbers of tokens; an image
    too small for the first of them gets the shares that these numbers are of 576.
    """

    source: ClassVar = "CVPR 2025, arXiv 2410.17247"

    official: ClassVar = {}  # solved: only the geometric structure is published for mean budgets
    named_schedules: ClassVar = {"original": "7:0.5,15:0.25,23:0.125"}
    queries: ClassVar = "last"
    looks_ahead: ClassVar = True

    def candidates(self, num_layers: int, vision_tokens: int) -> Sequence[Schedule]:
        return self._pyramids(num_layers, 1000)

    def finer_candidates(self, num_layers: int, vision_tokens: int) -> Sequence[Schedule]:
        """Steps that change no stage by more than a token."""
        return self._pyramids(num_layers, len(self.stage_layers(num_layers)) * vision_tokens)

    def _pyramids(self, num_layers: int, steps: int) -> Sequence[Schedule]:
        """One for each λ between 0 and 1, in so many steps."""
        layers = self.stage_layers(num_layers)

        def pyramid(number: int) -> Schedule:
            share = (number + 1) / steps
            return Schedule(Stage(layer, round(share ** (i + 1), 9)) for i, layer in enumerate(layers))

        return OnDemand(max(steps - 1, 0), pyramid)

    def stage_layers(self, num_layers: int) -> list[int]:
        return given_layers(self.layers) if self.layers else scale_layers((1, 7, 15), 32, num_layers)

    def keep_count(self, keep: int | float, vision_tokens: int, current: int) -> int:
        if isinstance(keep, int) and self.schedule is not None:
            first = Schedule.parse(self.schedule)[0].keep
            if first >= vision_tokens and vision_tokens < self.official_tokens:
                keep = keep / self.official_tokens
        return super().keep_count(keep, vision_tokens, current)

    def score(self, attention: Attention) -> Tensor:
        """Mean over heads of the last token's attention."""
        return attention.to_vision[:, :, -1].mean(1)
