"""MMTok: vision tokens that cover both the question's words and the image.

Dong et al., "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs", ICLR 2026, arXiv 2508.18264.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
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
        from torch.nn.utils.rnn import pad_sequence

        from adaptinfer_eval.methods.cover import cover
        from adaptinfer_eval.methods.seen import cosines

        if images.embed is None:
            raise ValueError(
                f"{self.name} reads the question in the model's own tokens, and nobody said which these are: "
                "pass tokenize= to pruned()"
            )
        texts = [
            _shares(cosines(images.embed(words(question)), image), 0.02)
            for question, image in zip(images.questions, images.projected, strict=True)
        ]
        patches = 0.5 * _shares(cosines(images.hidden), 0.2)
        covers = torch.cat([pad_sequence(texts, batch_first=True), patches], 1)
        return Selection(cover(covers.transpose(1, 2), count).sort(dim=1).values)


def words(question: str) -> list[str]:
    """What is read of a question: words that may say something of an image."""
    from adaptinfer_eval.methods.question import without_instructions

    text = without_instructions(question)
    return [word for word in re.findall(r"\b\w+\b", text) if not _PASSED_OVER.fullmatch(word)] or text.split()


def _shares(cosines: Tensor, temperature: float) -> Tensor:
    return (cosines / temperature).softmax(-1) / cosines.shape[-2]
