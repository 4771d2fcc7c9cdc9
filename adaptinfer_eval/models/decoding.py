"""Where an answer ends, and how a given continuation is forced: small additions to transformers' `generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria


class StopAt(StoppingCriteria):
    """Ends each row once its own answer holds one of `stops`.

    Reads what was generated only, not the prompt, and works with any vocabulary; transformers' `stop_strings` matches
    across the end of the prompt and refuses a tokenizer that cannot spell the string.
    """

    def __init__(self, stops: Sequence[str], tokenizer: Any, prompt_length: int) -> None:
        self.stops, self.tokenizer, self.prompt_length = tuple(stops), tokenizer, prompt_length

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        answers = self.tokenizer.batch_decode(input_ids[:, self.prompt_length :], skip_special_tokens=True)
        done = [any(stop in answer for stop in self.stops) for answer in answers]
        return torch.tensor(done, device=input_ids.device)


def cut(text: str, stops: Sequence[str]) -> str:
    """`text` up to the first of `stops`."""
    return text[: min((text.index(stop) for stop in stops if stop in text), default=len(text))]


def until_end(tokens: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The tokens of an answer before its end token and the padding that a batch puts after it."""
    stop = next((index for index, token in enumerate(tokens) if token in ends), len(tokens))
    return list(tokens[:stop])


def only(targets: Sequence[Sequence[int]], prompt_length: int, end: int) -> Callable[[int, Tensor], list[int]]:
    """For `prefix_allowed_tokens_fn`: row i may only go on with `targets[i]`, then `end`."""

    def allowed(row: int, tokens: Tensor) -> list[int]:
        step = len(tokens) - prompt_length
        return [targets[row][step] if step < len(targets[row]) else end]

    return allowed
