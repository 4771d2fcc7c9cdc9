"""MMTok: vision tokens that cover both the question's words and the image.

Dong et al., "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs", ICLR 2026, arXiv 2508.18264.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Look, Selection

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.tower import Images

_PASSED_OVER = re.compile(
    "a|an|the|is|are|was|were|be|been|being|have|has|had|do|does|did|it|they|he|she|we|you|i|what|where|when|why|how|who|"
    "which|and|or|but|so|if|then|question|answer|to|for|with|by|from|at|into|onto|upon",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class MMTok(ImageMethod):
    """MMTok (arXiv 2508.18264): greedily, the token that adds most to what the chosen ones cover.

    A token covers each of the question's tokens, and each token of the image, by the share that it has of a softmax
    over the image: of cosines between the decoder's input embeddings and the tokens it is given (temperature 0.02),
    and between features before the projector (0.2, with half the weight). What is covered counts once.

    As in the authors' code for LLaVA, the question is read word by word, without the task's answer instruction and
    without words that say nothing of an image; a question of such words alone is read whole.
    """

    source: ClassVar = "ICLR 2026, arXiv 2508.18264"
    licence: ClassVar = "Apache-2.0"

    def look(self, read: int, depth: int) -> Look:
        return Look(question=True)

    def select(self, images: Images, count: int) -> Selection:
        import torch
        from torch.nn import functional as F
        from torch.nn.utils.rnn import pad_sequence

        if images.embed is None:
            raise ValueError(
                f"{self.name} reads the question in the model's own tokens, and nobody said which these are: "
                "pass tokenize= to pruned()"
            )
        unit = F.normalize(images.projected, dim=-1, eps=1e-8)
        # Image by image: padded to another question's length, products could differ in their last bits.
        texts = [
            _shares(F.normalize(images.embed(words(question)), dim=-1, eps=1e-8) @ image.T, 0.02)
            for question, image in zip(images.questions, unit, strict=True)
        ]
        patches = F.normalize(images.hidden, dim=-1, eps=1e-8)
        covers = torch.cat(
            [pad_sequence(texts, batch_first=True), 0.5 * _shares(patches @ patches.transpose(1, 2), 0.2)], 1
        )
        return Selection(_most_covering(covers, count).sort(dim=1).values)


def words(question: str) -> list[str]:
    """What is read of a question: words that may say something of an image."""
    from adaptinfer_eval.methods.question import without_instructions

    text = without_instructions(question)
    return [word for word in re.findall(r"\b\w+\b", text) if not _PASSED_OVER.fullmatch(word)] or text.split()


def _shares(cosines: Tensor, temperature: float) -> Tensor:
    return (cosines / temperature).softmax(-1) / cosines.shape[-2]


def _most_covering(covers: Tensor, count: int) -> Tensor:
    """Greedy maximum coverage: how much each of V tokens covers of each row, (I, rows, V) → (I, count)."""
    import torch

    covered = covers.new_zeros(covers.shape[:2])[..., None]
    taken = covers.new_zeros(len(covers), covers.shape[2], dtype=torch.float64)
    chosen = []
    for _ in range(count):
        # In float64, rows of padding do not change the sum.
        gain = (covers - covered).clamp(min=0).sum(1, dtype=torch.float64) + taken
        best = gain.argmax(1, keepdim=True)
        chosen.append(best)
        taken = taken.scatter(1, best, -inf)
        covered = covered.maximum(covers.gather(2, best[:, None].expand(-1, covers.shape[1], 1)))
    return torch.cat(chosen, 1)
