"""VidCom²: of a video, the tokens that are unlike the video and their frame; more of frames that stand out.

Liu et al., "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models",
EMNLP 2025, arXiv 2505.14454.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Selection, video_grid

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.tower import Images


@dataclass(frozen=True, kw_only=True)
class VidCom2(ImageMethod):
    """VidCom² (arXiv 2505.14454): likeness is a sum of Gaussians of the distance to the mean token.

    Tokens as the decoder gets them, the half of their dimensions that varies least, in unit length. A frame's share of
    the budget grows with how unlike the video's mean it is (softmax over frames, temperature 0.01); in each frame, the
    tokens go on that are least like the video's mean and the frame's, one at least.

    The authors round each frame's number by itself, so that a video keeps a few tokens more or less than its share.
    Here it keeps `budget`: frames that rounding took most from get what is left over, or those that it gave most give
    what is too much.
    """

    source: ClassVar = "EMNLP 2025, arXiv 2505.14454"
    licence: ClassVar = "Apache-2.0"

    def select(self, images: Images, count: int) -> Selection:
        from torch.nn import functional as F

        from adaptinfer_eval.methods.seen import gather_tokens, highest

        frames, rows, columns = video_grid(images, self.name)
        if count < frames:
            raise ValueError(
                f"{self.name} keeps a token of every frame, and {frames} frames are more than the budget's {count} "
                f"tokens: choose at least {frames}"
            )
        tokens = rows * columns
        still = images.projected.var(1, unbiased=False).argsort(dim=1, stable=True)[:, : images.projected.shape[2] // 2]
        quiet = gather_tokens(images.projected.transpose(1, 2), still).transpose(1, 2)
        video = F.normalize(quiet, dim=-1).reshape(-1, frames, tokens, quiet.shape[2])
        like_video = _likeness(video, video.mean((1, 2), keepdim=True))
        like_frame = _likeness(video, video.mean(2, keepdim=True))
        shares = (-like_video.mean(2) / 0.01).softmax(1)
        wanted = (count / frames * (1 + shares - shares.mean(1, keepdim=True))).clamp(max=tokens)
        rank = (like_video + like_frame).argsort(dim=2, stable=True).argsort(dim=2)
        # A frame's number, rounded, is the number of its ranks whose middle is below what is wanted.
        margin = (wanted[..., None] - rank - 0.5).masked_fill(rank == 0, inf)
        return Selection(highest(margin.flatten(1), count).sort(dim=1).values)


def _likeness(tokens: Tensor, centre: Tensor) -> Tensor:
    """Gaussians of five widths, summed, of the distance of (I, frames, n, D) to a centre: (I, frames, n)."""
    import torch

    squares = ((tokens - centre) ** 2).sum(-1)
    return torch.stack([torch.exp(-squares / (2 * width)) for width in (0.125, 0.25, 0.5, 1.0, 2.0)]).sum(0)
