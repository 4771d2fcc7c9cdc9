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

    `once`: whoever asks remembers which rows have ended, which with beams nobody does. Then a step looks at the end of
    an answer, and at all of it where a stop seems to be there: reading all of a long answer at every step takes as long
    as a good part of the step. (Special tokens inside a stop may hide it: such an answer goes on, and is cut later.)
    """

    def __init__(self, stops: Sequence[str], tokenizer: Any, prompt_length: int, once: bool = False) -> None:
        self.stops, self.tokenizer, self.prompt_length = tuple(stops), tokenizer, prompt_length
        # A token of text is at least a byte of it; a character of four may be cut at the beginning, and come last.
        self.reach = max(len(stop.encode()) for stop in stops) + 8 if once else None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        answers = input_ids[:, self.prompt_length :].cpu()
        done = torch.arange(len(answers))
        if self.reach is not None and self.reach < answers.shape[1]:
            done = done[self._stopped(answers[:, -self.reach :])]
        stopped = torch.zeros(len(answers), dtype=torch.bool)
        stopped[done] = self._stopped(answers[done])
        return stopped.to(input_ids.device)

    def _stopped(self, answers: Tensor) -> Tensor:
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return torch.tensor([any(stop in text for stop in self.stops) for text in texts], dtype=torch.bool)


class Ended(StoppingCriteria):
    """Ends each row at one of the tokens `ends`, and where `stop` says so; `rows` knows which have ended so far."""

    def __init__(self, ends: Sequence[int], stop: StopAt | None = None) -> None:
        self.ends, self.stop = torch.tensor(ends), stop
        self.so_far: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.ends = self.ends.to(input_ids.device)
        done = torch.isin(input_ids[:, -1], self.ends)
        if self.stop is not None:
            done = done | self.stop(input_ids, scores)
        self.so_far = done if self.so_far is None else self.so_far | done
        return done

    def rows(self) -> list[bool]:
        """Waits for the device, for which `generate` has waited by the next decode step."""
        return [] if self.so_far is None else self.so_far.tolist()


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
