"""Where an answer ends, and how a given continuation is forced: small additions to transformers' `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria


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


def continued(tokenizer: Any, prompt: str, continuation: str) -> list[int]:
    """Tokens of `continuation` behind `prompt`, set apart by one white space."""
    text = continuation.strip() if prompt[-1:].isspace() else f" {continuation.strip()}"
    alone, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + text)["input_ids"]
    if not continuation.strip() or whole[: len(alone)] != alone:
        raise ValueError(f"{continuation!r} cannot be scored: its tokens do not stand apart from the prompt's")
    return list(whole[len(alone) :])


class Only(LogitsProcessor):
    """Row i goes on with `targets[i]`, then `end`, whatever other processors of a checkpoint forbid."""

    def __init__(self, targets: Sequence[Sequence[int]], prompt_length: int, end: int) -> None:
        self.targets, self.prompt_length, self.end = targets, prompt_length, end

    def __call__(self, input_ids: Tensor, scores: Any) -> Tensor:
        step = input_ids.shape[1] - self.prompt_length
        wanted = [target[step] if step < len(target) else self.end for target in self.targets]
        forced = torch.full_like(scores, -torch.inf)
        return forced.scatter_(1, torch.tensor(wanted, device=scores.device)[:, None], 0.0)
