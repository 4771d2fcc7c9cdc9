"""CDPruner: a set of vision tokens that are unlike each other and, by CLIP, matter to the question.

Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
NeurIPS 2025, arXiv 2506.10967.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.clip_text import CLIP_LARGE, Checkpoint
from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Look, Selection

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.tower import Images


@dataclass(frozen=True, kw_only=True)
class CDPruner(ImageMethod):
    """CDPruner (arXiv 2506.10967): the most likely set of a determinantal point process, found greedily.

    A set is likely where its tokens' features after the projector are unlike each other, and where its tokens are
    relevant. `text_tower`: the CLIP checkpoint that relevance comes from, the one whose vision tower the model has.

    As in the authors' code, a patch is the more relevant the *less* its CLIP embedding is like the question's; CLIP's
    last norm is applied to the layer that the model reads; relevance is used as it is (the paper's θ is commented out);
    and a question of more than 77 tokens is cut into segments, whose similarities are averaged (the first has no end
    token, so that its embedding is the same for all questions). The task's answer instruction is not read.
    """

    source: ClassVar = "NeurIPS 2025, arXiv 2506.10967"
    licence: ClassVar = "Apache-2.0"

    text_tower: Checkpoint = CLIP_LARGE

    def look(self, read: int, depth: int) -> Look:
        return Look(question=True, clip=True)

    def select(self, images: Images, count: int) -> Selection:
        from adaptinfer_eval.methods.clip_text import clip_text
        from adaptinfer_eval.methods.question import without_instructions

        clip = clip_text(self.text_tower, images.hidden.device)
        embeds = clip.images(images, self.name)
        texts = [clip.text(without_instructions(question)) for question in images.questions]
        return Selection(self.choose(images.projected, embeds, texts, count))

    @staticmethod
    def choose(projected: Tensor, image_embeds: Tensor, text_embeds: Sequence[Tensor], count: int) -> Tensor:
        """Tokens that go on, (B, count) int64, increasing.

        `projected` (B, V, D): tokens as the decoder gets them. In CLIP's space, `image_embeds` (B, V, E), and
        `text_embeds`: of each image's question, (segments, E).
        """
        import torch
        from torch.nn import functional as F

        from adaptinfer_eval.methods.seen import cosines

        text = torch.stack([F.normalize(segments.float(), dim=-1).mean(0) for segments in text_embeds])
        relevance = -(F.normalize(image_embeds.float(), dim=-1) * text[:, None]).sum(-1)
        lowest, highest = relevance.aminmax(dim=1, keepdim=True)
        spread = (highest - lowest).masked_fill(highest == lowest, 1e-6)  # all alike: all relevant
        relevance = (relevance - lowest + 1e-6) / spread
        kernel = relevance[:, :, None] * cosines(projected) * relevance[:, None]
        return _most_likely(kernel, count).sort(dim=1).values


def _most_likely(kernel: Tensor, count: int) -> Tensor:
    """Greedy MAP of a determinantal point process (Chen et al., 2018): (B, V, V) → (B, count), in order of choice.

    Where a kernel's rank is below `count`, what is left is chosen by what rounding leaves of it, never twice.
    """
    import torch

    gain = kernel.diagonal(dim1=1, dim2=2).clone()
    rows = kernel.new_zeros(len(kernel), count, kernel.shape[2])  # of the chosen tokens' Cholesky factor
    chosen = torch.empty(len(kernel), count, dtype=torch.long, device=kernel.device)
    for step in range(count):
        best = gain.argmax(1)
        chosen[:, step] = best
        at = best[:, None, None]
        earlier = rows[:, :step]
        row = kernel.gather(1, at.expand(-1, 1, kernel.shape[2]))[:, 0]
        row = row - (earlier * earlier.gather(2, at.expand(-1, step, 1))).sum(1)
        pivot = gain.gather(1, best[:, None])
        spent = pivot <= torch.finfo(kernel.dtype).eps ** 2
        row = (row / pivot.masked_fill(spent, 1).sqrt()).masked_fill(spent, 0)
        rows[:, step] = row
        gain = (gain - row**2).scatter(1, best[:, None], -inf)
    return chosen
