"""What the caller says of a block's first batch of prompts, whose tokens do not tell it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptinfer_eval.methods.seen import from_host
from adaptinfer_eval.pruning.shown import Shown

Tokenize = Callable[[str], Sequence[int]]
"""A text's token ids, without special tokens."""


@dataclass
class Given:
    """Of each prompt: `images`, how many; `shown`, what the vision tower showed of them; `questions`, what is asked."""

    images: Sequence[int] | None = None
    shown: Sequence[Sequence[Shown]] | None = None
    questions: Sequence[str] | None = None
    tokenize: Tokenize | None = None
    """Of all batches."""
    ended: Callable[[], Sequence[bool]] | None = None
    """Of each prompt, asked in every decode step: whether its answer is over."""

    def forget(self) -> None:
        """Another batch would have others."""
        self.images = self.shown = self.questions = None

    def embed(self, text: Any, device: torch.device) -> Callable[[Sequence[str]], Tensor] | None:
        """See `Images.embed`; `text`: the decoder."""
        tokenize = self.tokenize
        if tokenize is None:
            return None

        def embedded(texts: Sequence[str]) -> Tensor:
            ids = torch.tensor([token for each in texts for token in tokenize(each)])
            embeddings: Tensor = text.get_input_embeddings()(from_host(ids, device))
            return embeddings.float()

        return embedded

    def questions_of(self, prompts: int) -> Sequence[str]:
        """Of each of so many prompts; beam search repeats them."""
        if self.questions is None or prompts % len(self.questions):
            raise ValueError("the method reads the question, which is not known: pass questions= to pruned(), one each")
        return [question for question in self.questions for _ in range(prompts // len(self.questions))]

    def shown_of(self, images: Sequence[int], noted: Sequence[Shown], needed: bool) -> Sequence[Sequence[Shown]]:
        """Of each of some prompts with so many images; of `noted`, what was seen in the block, where there is any.

        Empty where there is none; where it is of other images, a ValueError if it is `needed`. Beam search repeats
        prompts.
        """
        if noted:
            times, rest = divmod(sum(images), len(noted))
            own, first = [], 0
            for count in images[:: times or 1]:
                own.append(noted[first : first + count])
                first += count
            if rest or first != len(noted):
                return self._other(needed, f"{len(noted)} images were encoded inside the block", sum(images))
        elif self.shown:
            own, times = list(self.shown), len(images) // len(self.shown)
        else:
            return []
        found = [of_prompt for of_prompt in own for _ in range(times)]
        if [len(of_prompt) for of_prompt in found] != list(images):
            return self._other(needed, f"the vision tower showed {[*map(len, found)]} images", [*images])
        return found

    @staticmethod
    def _other(needed: bool, there: str, wanted: object) -> Sequence[Sequence[Shown]]:
        if needed:
            raise ValueError(f"{there}, and prompts have {wanted}: one video at most is looked at in a prompt")
        return []
