"""ToMe in the vision tower: similar patches are merged layer by layer, before the language model sees them.

Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv 2210.09461.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.image import ImageMethod

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ToMe(ImageMethod):
    """ToMe (arXiv 2210.09461) in the CLIP tower: `budget` tokens per image leave it, for every decoder layer.

    `proportional`: attend to a merged token in proportion to the patches it stands for (+ log size on its key).
    The merges are spread evenly over the layers before the one that LLaVA reads, the larger shares first.
    """

    source: ClassVar = "ICLR 2023, arXiv 2210.09461"
    licence: ClassVar = "CC-BY-NC"

    proportional: bool = True

    in_tower: ClassVar = True

    @property
    def weighs_keys(self) -> bool:
        return self.proportional

    def tower_schedule(self, num_layers: int, image_tokens: int) -> Sequence[int]:
        """Merges per layer, 512 = 6 × 23 + 17 × 22; ValueError when `num_layers` layers cannot merge that many."""
        budget = self.image_budget(image_tokens)
        total = image_tokens - budget
        if total < 0:
            raise ValueError(f"budget={budget}: the image has only {image_tokens} vision tokens: use vanilla")
        for most in range(image_tokens // 2 + 1):
            merges, left = [], image_tokens
            for _ in range(num_layers):
                merges.append(min(most, left // 2))  # a layer can merge every other token
                left -= merges[-1]
            if (excess := budget - left) >= 0:
                full = [layer for layer, merge in enumerate(merges) if merge == most]
                for layer in full[len(full) - excess :]:
                    merges[layer] -= 1
                assert sum(merges) == total
                return merges
        raise ValueError(
            f"budget={budget}: {num_layers} layers that merge half of their tokens leave {left} of "
            f"{image_tokens}: choose a budget of at least {left}"
        )

    def assign(self, keys: Tensor, count: int) -> Tensor:
        """Bipartite soft matching (ToMe §3): even rows A, odd rows B; the `count` best matches A → B are merged.

        Rows come out as in ToMe: unmerged tokens of A in order (CLS first, never merged), then all of B.
        """
        import torch
        from torch.nn import functional as F

        from adaptinfer_eval.methods.seen import highest

        unit = F.normalize(keys.float(), dim=-1)
        match = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
        match[:, 0] = -inf
        best, partner = match.max(2)
        chosen = highest(best, count)
        merged = torch.zeros_like(best, dtype=torch.bool).scatter_(1, chosen, True)
        first_b = best.shape[1] - count
        rows = torch.empty(keys.shape[:2], dtype=torch.long, device=keys.device)
        rows[:, ::2] = torch.where(merged, first_b + partner, (~merged).cumsum(1) - 1)
        rows[:, 1::2] = first_b + torch.arange(match.shape[2], device=keys.device)
        return rows
