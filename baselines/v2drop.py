"""V2Drop: vision tokens that a layer changes least are lazy, and go.

Chen et al., "Variation-aware Vision Token Dropping for Faster Large Vision-Language Models", CVPR 2026,
arXiv 2509.01552.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.budget import OnDemand, given_layers, scale_layers
from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.schedule import Schedule, ShareOfCurrent, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention


@dataclass(frozen=True, kw_only=True)
class V2Drop(LayerMethod):
    """V2Drop (arXiv 2509.01552): keeps the vision tokens that the layer before a stage has changed most (L2 norm).

    After layers 2, 16 and 21 of 32, as in the authors' code (Apache-2.0); its shares of the current tokens, 50 %, 50 %
    and 0 %, are `schedule="original"`: 288, 144 and 1 of 576, on average 202.8 entering and 184.8 leaving. A stage
    keeps one token at least. Kept tokens keep their positions. No attention is computed for it.

    A budget is solved for shares r, r, 0: the authors' code has no other than its own. It prunes only prompts of more
    than 576 tokens and takes any other for one without an image; here every image is pruned.
    """

    source: ClassVar = "CVPR 2026, arXiv 2509.01552"
    licence: ClassVar = "Apache-2.0"

    official: ClassVar = {}  # one schedule is published, and no mean budget for it
    named_schedules: ClassVar = {"original": "2:50%,16:50%,21:0%"}
    positions: ClassVar = "keep"
    queries: ClassVar = "none"
    looks_at: ClassVar = ("entering", "leaving")

    def candidates(self, num_layers: int, vision_tokens: int) -> Sequence[Schedule]:
        return self._shares(num_layers, 1000)

    def finer_candidates(self, num_layers: int, vision_tokens: int) -> Sequence[Schedule]:
        """Steps that change no stage by more than a token."""
        return self._shares(num_layers, 2 * max(vision_tokens, 500))

    def _shares(self, num_layers: int, steps: int) -> Sequence[Schedule]:
        """One for each share between 0 and 1, in so many steps."""
        *layers, last = self.stage_layers(num_layers)

        def shares(number: int) -> Schedule:
            share = ShareOfCurrent(round(number / steps, 9))
            return Schedule([*(Stage(layer, share) for layer in layers), Stage(last, 0 if layers else share)])

        return OnDemand(steps, shares)

    def stage_layers(self, num_layers: int) -> list[int]:
        return given_layers(self.layers) if self.layers else scale_layers((2, 16, 21), 32, num_layers)

    def keep_count(self, keep: int | float, vision_tokens: int, current: int) -> int:
        """The authors' code keeps a token at least."""
        return min(max(super().keep_count(keep, vision_tokens, current), 1), current)

    def score(self, attention: Attention) -> Tensor:
        """How far the layer moved each token."""
        from torch.linalg import vector_norm

        assert attention.entering is not None
        assert attention.leaving is not None
        moved: Tensor = vector_norm(attention.leaving.vision.float() - attention.entering.vision.float(), dim=2)
        return moved
