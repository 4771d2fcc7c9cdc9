"""What prompts of a batch begin with alike is computed once, up to the first layer that prunes.

Attention is causal: what a prompt's first tokens become does not depend on the question behind them, until a method
chooses by it. So questions about one image share system prompt and image; their key-value cache is copied to each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adaptinfer_eval.methods.seen import per_sample
from adaptinfer_eval.pruning.masks import causal_mask
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.releases import CACHE, cache_of

Kwargs = dict[str, Any]


@dataclass(frozen=True)
class SharedPrefix:
    """The first `length` tokens of every prompt of a batch: all up to the end of its last image, none of them padding.

    `first[b]`: the first prompt of the batch whose prefix is that of prompt b, itself where there is none before it.
    Prompts of unequal length are padded between prefix and question: `[prefix][padding][question]`. Not for decoders
    with a sliding window, which would count the padding.
    """

    length: int
    first: tuple[int, ...]

    @property
    def unique(self) -> list[int]:
        """The prompts whose prefix is computed."""
        return sorted(set(self.first))

    @property
    def place(self) -> list[int]:
        """Of every prompt, where its prefix is in `unique`."""
        where = {row: place for place, row in enumerate(self.unique)}
        return [where[row] for row in self.first]

    def shorter(self, tokens: int) -> SharedPrefix:
        """The same without `tokens` of every prefix."""
        return SharedPrefix(self.length - tokens, self.first)

    def of(self, prompt: Prompt) -> SharedPrefix:
        """The same for `prompt`, where beam search repeats every row; ValueError where it is another batch's."""
        prompts, times = len(prompt.real), len(prompt.real) // len(self.first)
        tokens = {real - after for real, after in zip(prompt.real, prompt.text_after, strict=True)}
        ends = set(prompt.images_end)
        if not tokens == ends == {self.length} or prompts != times * len(self.first) or 0 in prompt.text_after:
            raise ValueError(
                f"prefix= says that {len(self.first)} prompts end their images at token {self.length} and are padded "
                f"there; {prompts} end them at token {sorted(tokens)}, column {sorted(ends)}: that is another batch"
            )
        return SharedPrefix(self.length, tuple(row * times for row in self.first for _ in range(times)))


@dataclass
class Shared:
    """A computed prefix. `hidden` (U, P, D): what the last layer that ran hands on; `entering`: what it was given.

    `place` (B,): whose is whose. `embeds` (B, L, D) and `positions` (1 or B, L) are those of the whole prompts.
    """

    hidden: Tensor
    entering: Tensor
    place: Tensor
    embeds: Tensor
    positions: Tensor

    def join(self, hidden: Tensor) -> Tensor:
        """The prompts again, (B, L, D), from what the same layer made of the questions (B, L - P, D)."""
        return self._before(self.hidden, hidden)

    def join_entering(self, entering: Tensor) -> Tensor:
        """The prompts again, (B, L, D), from what the same layer was given of the questions (B, L - P, D)."""
        return self._before(self.entering, entering)

    def _before(self, prefix: Tensor, questions: Tensor) -> Tensor:
        prefix = prefix.to(questions.device)[self.place.to(questions.device)]
        return torch.cat([prefix, questions], 1)

    @property
    def length(self) -> int:
        return self.hidden.shape[1]


def with_positions(prompt: Prompt, kwargs: Kwargs) -> Kwargs:
    """`kwargs` with positions that do not count the padding in front of a question, where there are none yet."""
    if kwargs.get("position_ids") is not None:
        return kwargs
    real = torch.ones_like(prompt.is_vision[:1]) if prompt.valid is None else prompt.valid
    return {**kwargs, "position_ids": real.long().cumsum(1) - 1}


def compute_prefix(
    text: Any,
    layers: Sequence[nn.Module],
    prompt: Prompt,
    prefix: SharedPrefix,
    kwargs: Kwargs,
    start: int = 0,
    begun: tuple[Tensor, Tensor] | None = None,
) -> tuple[Kwargs, Shared]:
    """Run the first `layers` of the decoder `text` on the prefixes of `prompt`, and fill the cache for every row.

    `kwargs`: the decoder's arguments for the whole prompts, `with_positions`; returned are those for the questions.
    The layers before `start` have run: `begun` (U, P, D each) is what the last of them handed on, and was given.
    """
    embeds, cache, positions = kwargs["inputs_embeds"], cache_of(kwargs), kwargs["position_ids"]
    cos, sin = text.rotary_emb(embeds, position_ids=positions)
    prefix = prefix.of(prompt)
    length, place = prefix.length, per_sample(prefix.place, embeds.device)[:, 0]
    hidden = embeds[per_sample(prefix.unique, embeds.device)[:, 0], :length]
    hidden, entering = begun or (hidden, hidden)
    for index, layer in enumerate(layers[start:], start):
        entering = hidden
        hidden = layer(
            hidden,
            attention_mask=causal_mask(text.config, index, hidden, valid=None),
            position_embeddings=(cos[:1, :length], sin[:1, :length]),
            use_cache=True,
            **{CACHE: cache},
        )
        filled = cache.layers[index]
        filled.batch_select_indices(place.to(filled.keys.device))
    questions = {"inputs_embeds": embeds[:, length:], "position_ids": positions[:, length:]}
    return {**kwargs, **questions}, Shared(hidden, entering, place, embeds, positions)
