"""EVS: of a video, the tokens that differ from what was in the same place a frame before.

Bagrov et al., "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference",
arXiv 2510.14624.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Selection, video_grid

if TYPE_CHECKING:
    from adaptinfer_eval.methods.tower import Images


@dataclass(frozen=True, kw_only=True)
class EVS(ImageMethod):
    """EVS (arXiv 2510.14624): the first frame, and the tokens least like (by cosine) the ones a frame before them.

    Tokens as the decoder gets them, in their order. `budget` per video, the first frame included: a smaller one is
    refused (the published code, vLLM's, keeps the first frame then).
    """

    source: ClassVar = "arXiv 2510.14624"
    licence: ClassVar = "Apache-2.0"

    def select(self, images: Images, count: int) -> Selection:
        import torch
        from torch.nn import functional as F

        from adaptinfer_eval.methods.seen import highest

        frames, rows, columns = video_grid(images, self.name)
        if count < rows * columns:
            raise ValueError(
                f"{self.name} keeps a video's first frame, and its {rows * columns} tokens are more than the {count} "
                f"of the budget: choose at least {rows * columns} of {images.tokens}"
            )
        video = images.projected.reshape(-1, frames, rows * columns, images.projected.shape[2])
        change = 1 - F.cosine_similarity(video[:, 1:], video[:, :-1], dim=-1)
        change = torch.cat([torch.full_like(video[:, :1, :, 0], 255), change], 1)
        return Selection(highest(change.flatten(1), count).sort(dim=1).values)
