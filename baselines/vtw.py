"""VTW: from one layer on there are no vision tokens: by then the text has taken from them what it needs.

Lin et al., "Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for Rapid Inference", AAAI 2025,
arXiv 2405.05803.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from adaptinfer_eval.methods.budget import OnDemand
from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.schedule import Schedule, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention

RULES = ("keep", "renumber")


@dataclass(frozen=True, kw_only=True)
class VTW(LayerMethod):
    """VTW (arXiv 2405.05803): all vision tokens leave before layer K, and nothing is scored.

    `schedule="14:0"` is K = 15, the authors' for LLaVA-1.5-7B: 270 tokens entering a layer and 252 leaving it on
    average. Their search for K is `adaptinfer-eval calibrate vtw`. `positions`: the text keeps its positions, the
    default of the authors' code (which has no licence), or is numbered anew ("renumber"), an option of it.

    A budget chooses K, which changes the mean by 18 of 576 tokens: what lies between, 64 and 128 too, is refused, and
    the nearest schedule named. The authors' code looks for image tokens at columns 35 to 611; here they may be
    anywhere.
    """

    source: ClassVar = "AAAI 2025, arXiv 2405.05803"
    licence: ClassVar = "none"

    positions: Literal["keep", "renumber"] = "keep"  # type: ignore[misc]  # a fact of the class in other methods

    official: ClassVar = {}  # K for some models is published, no mean budgets
    named_schedules: ClassVar = {"original": "14:0"}
    queries: ClassVar = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions not in RULES:
            raise ValueError(f"positions={self.positions!r}: VTW has {' and '.join(RULES)}")
        if self.layers is not None:
            raise ValueError(
                "VTW's budget says after which layer tokens leave: give schedule='14:0' instead of layers="
            )
        if self.schedule is not None and any(stage.keep for stage in Schedule.parse(self.schedule)):
            raise ValueError(f"schedule={self.schedule!r}: VTW keeps no vision token: write it as in '14:0'")

    def candidates(self, num_layers: int, vision_tokens: int) -> Sequence[Schedule]:
        return OnDemand(max(num_layers - 1, 1), lambda layer: Schedule([Stage(layer, 0)]))

    def places(self, num_layers: int) -> Schedule:
        """As for images of the usual size: a share of the tokens is after one layer for all."""
        return self.plan(num_layers, self.official_tokens)

    def starting_after(self, layer: int, num_layers: int) -> VTW:
        return self  # its candidates are after every layer

    def score(self, attention: Attention) -> Tensor:
        """Of no token more than of another."""
        return attention.vision_mask.float()
