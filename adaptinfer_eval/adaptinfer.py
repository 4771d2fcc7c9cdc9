"""AdaptInfer: text-to-text attention weighs the text's votes for vision tokens, anew at every stage.

Zhang et al., "AdaptInfer: Adaptive Token Pruning for Vision–Language Model Inference with Dynamical Text Guidance",
arXiv 2508.06084.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.schedule import ShareOfCurrent

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention

VARIANTS = ("reference", "paper", "qwen2_vl", "qwen2_vl_min1")


@dataclass(frozen=True, kw_only=True)
class AdaptInfer(LayerMethod):
    """AdaptInfer (arXiv 2508.06084): text tokens vote with the weight that the text gives them at that layer.

    `variant="reference"` is what the authors' code computes: the text is what follows the image, its t2t attention is
    made symmetric, and the weighing happens inside each head. `"paper"` is Eq. 2-4 as printed: w is the column sum of
    A_t2t. The paper leaves open how heads are treated (weighed one by one and summed, as in the code) and which text
    is meant (no choice to make: text before the image cannot attend to it, so its votes are 0).

    `"qwen2_vl"` and `"qwen2_vl_min1"` are the two versions that the authors published for Qwen2-VL: scores as in the
    reference, positions are kept, and stages keep shares of the current tokens (`schedule="10%"`, `"30%"`, `"50%"` are
    theirs). The first rounds in float32 and always drops a token; the second keeps one at least.
    """

    source: ClassVar = "arXiv 2508.06084"
    licence: ClassVar = "Apache-2.0"

    variant: Literal["reference", "paper", "qwen2_vl", "qwen2_vl_min1"] = "reference"

    # Stages sit where the cross-attention shift analysis puts them: 1, 10, 20 of 32 layers and 1, 11, 22 of 40.
    official: ClassVar = {
        32: {
            128: "1:290,10:72,20:18",
            64: "1:133,10:27,20:3",
            48: "1:80,10:24,20:2",
            32: "1:40,10:12,20:0",
        },
        40: {128: "1:300,11:94,22:30", 64: "1:148,11:40,22:5"},
    }
    named_schedules: ClassVar = {
        "10%": "0:17%,9:60%,19:30%",
        "30%": "0:50%,9:60%,19:30%",
        "50%": "0:70%,9:90%,19:30%",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise ValueError(f"variant={self.variant!r}: AdaptInfer has {' and '.join(VARIANTS)}")

    @property
    def positions(self) -> Any:  # type: ignore[override]
        return "keep" if self.variant.startswith("qwen2_vl") else "renumber"

    def keep_count(self, keep: int | float, vision_tokens: int, current: int) -> int:
        """The authors' code always drops at least one token, but for the version that always keeps one."""
        if self.variant == "qwen2_vl_min1":
            return min(max(super().keep_count(keep, vision_tokens, current), 1), current)
        if self.variant == "qwen2_vl" and isinstance(keep, ShareOfCurrent):
            return min(int(_float32(_float32(keep) * current)), max(current - 1, 0))
        return min(super().keep_count(keep, vision_tokens, current), max(current - 1, 0))

    def score(self, attention: Attention) -> Tensor:
        """Eq. 2 and 3, s = wᵀ A_t2v, for each head, then summed over heads."""
        return (self._head_weights(attention)[:, :, None] @ attention.to_vision).sum(1)[:, 0]

    def text_weights(self, attention: Attention) -> Tensor:
        """Eq. 2, summed over heads."""
        return self._head_weights(attention).sum(1)

    def _head_weights(self, attention: Attention) -> Tensor:
        """w of each head, (B, H, T)."""
        text = attention.to_text
        weight = text.sum(2)  # Eq. 2: how much attention each text token gets from the text
        if self.variant != "paper":  # … and gives to it; the diagonal counts once
            weight = weight + text.sum(3) - text.diagonal(dim1=2, dim2=3)
        return weight


def _float32(number: float) -> float:
    """The nearest float32: of 340 tokens, 0.7 are 238 in float32 and 237 in float64."""
    return float(struct.unpack("f", struct.pack("f", number))[0])
