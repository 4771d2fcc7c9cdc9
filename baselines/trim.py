"""TRIM: the vision tokens that CLIP relates to the question, and one token for all the others.

Song et al., "Less is More: A Simple yet Effective Token Reduction Method for Efficient Multi-modal LLMs", COLING 2025,
arXiv 2409.10994.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.clip_text import CLIP_LARGE, Checkpoint
from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Look, Selection

if TYPE_CHECKING:
    from adaptinfer_eval.methods.tower import Images


@dataclass(frozen=True, kw_only=True)
class TRIM(ImageMethod):
    """TRIM (arXiv 2409.10994): `budget` - 1 patches by CLIP, in raster order, then the mean of all others.

    `text_tower`: the CLIP checkpoint that ranks the patches, the one whose vision tower the model has.

    As in the authors' code, those patches go on whose CLIP embedding is *least* like the question's (a softmax over
    the negative products, of unnormalised embeddings; CLIP's last norm is applied to the layer that the model reads);
    the mean is of features before the projector; the question is read as it is asked, with the task's instruction, and
    cut at 77 tokens. The paper's own number of tokens (outliers of the image's scores) is not offered: a budget is.
    """

    source: ClassVar = "COLING 2025, arXiv 2409.10994"
    licence: ClassVar = "Apache-2.0"

    text_tower: Checkpoint = CLIP_LARGE

    makes: ClassVar = True

    def look(self, read: int, depth: int) -> Look:
        return Look(question=True, clip=True)

    def select(self, images: Images, count: int) -> Selection:
        import torch

        from adaptinfer_eval.methods.clip_text import clip_text
        from adaptinfer_eval.methods.seen import highest

        clip = clip_text(self.text_tower, images.hidden.device)
        text = torch.cat([clip.text(question, truncate=True) for question in images.questions])
        likeness = (clip.images(images, self.name) * text[:, None]).sum(-1)
        kept = highest(-likeness, count - 1).sort(dim=1).values
        dropped = torch.ones_like(likeness).scatter(1, kept, 0)[..., None]
        mean = (images.hidden * dropped).sum(1, keepdim=True) / dropped.sum(1, keepdim=True)
        extra = kept.new_full((len(kept), 1), images.tokens)
        return Selection(torch.cat([kept, extra], 1), images.project(mean))
