"""Dropping vision tokens before the language model, and the bookkeeping that generation needs for it.

`generate` goes on counting the whole prompt; the decoder is given the shorter one, in prefill and in every decode step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from adaptinfer_eval.backbones.anatomy import Anatomy
from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.seen import gather_tokens, per_sample
from adaptinfer_eval.pruning.choice import Chooser, no_place
from adaptinfer_eval.pruning.deepstack import Removable, added_deep
from adaptinfer_eval.pruning.entering import Choice
from adaptinfer_eval.pruning.masks import Masks
from adaptinfer_eval.pruning.prefix import SharedPrefix
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.sequence import Segment, first_segment, shorten, without
from adaptinfer_eval.pruning.trace import Trace

Kwargs = dict[str, Any]


@dataclass(frozen=True)
class Entered:
    """A prompt that was shortened; `next` (axes, B, 1): where its answer begins, with several axes.

    `prefix`: what is left of that of whole prompts, where it can be shared: padding then stays where it was.
    """

    left: Segment
    next: Tensor | None
    prefix: SharedPrefix | None = None

    def of_rows(self, rows: Tensor) -> Entered:
        """The same in further decode steps of the prompts `rows` (R,) alone."""
        return Entered(self.left.of_rows(rows), None if self.next is None else self.next[:, rows])

    def prompt(self, whole: Prompt) -> Prompt:
        """What is left of `whole`, as a prompt with columns of its own."""
        left, text = self.left, whole.text_after
        ends = [left.length - after if vision else 0 for vision, after in zip(left.vision, text, strict=True)]
        if self.prefix is not None:
            ends = [self.prefix.length] * len(ends)
        return replace(
            whole,
            is_vision=left.is_vision,
            valid=left.valid,
            real=left.real,
            vision=left.vision,
            images_end=ends,
            follow={name: of.to(left.ids.device).gather(1, left.ids) for name, of in whole.follow.items()},
            columns=left.ids,
        )


class ImagePruner:
    """Applies one `ImageMethod` to the input of a decoder: `chooser` says what goes in of each image.

    A method that works in the tower has given fewer tokens; what is dropped are the zeros that fill their places.
    """

    def __init__(self, anatomy: Anatomy, method: ImageMethod, trace: Trace, chooser: Chooser) -> None:
        self.anatomy, self.method, self.trace, self.chooser = anatomy, method, trace, chooser
        self.left: Segment | None = None  # of the prefill that is running

    def hook(self) -> list[Removable]:
        return added_deep(self.anatomy.text, lambda: self.left)

    def forget(self) -> None:
        """Images that were encoded so far are of other prompts."""
        if self.chooser.watch is not None:
            self.chooser.watch.forget()

    def prefill(
        self, prompt: Prompt, kwargs: Kwargs, prefix: SharedPrefix | None = None
    ) -> tuple[Kwargs, Entered | None]:
        """The decoder's arguments with only what goes in of the images, and what that is.

        `prefix`: what the prompts begin with alike. It is left alike, unless the method chooses by what is asked.
        """
        self.left = None
        if not any(prompt.vision):
            return kwargs, None
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            text: Any = self.anatomy.text
            embeds = text.get_input_embeddings()(kwargs["input_ids"])
        before = first_segment(prompt.is_vision, prompt.valid, prompt.real, prompt.vision)
        choice = self.chooser.choose(prompt, before, embeds)
        self._check_made(choice, before.length)
        prefix = prefix if self._leaves_alike(choice) else None
        if prefix is not None:
            choice = choice.of_rows(per_sample(prefix.of(prompt).first, embeds.device)[:, 0])
        after, order = _enter(prompt, before, choice, in_place=prefix is not None)
        if self.method.in_tower and self._holds_features(embeds, before, choice.entering):
            raise ValueError(
                "the images were not encoded inside the block, but the method shortens them in the vision tower: "
                "pass pixel_values, not features computed before"
            )
        sources = choice.sources.gather(1, order)
        if choice.made is not None:
            embeds = torch.cat([embeds, choice.made.to(embeds.dtype)], 1)
        embeds = gather_tokens(embeds, sources)
        self.left = after
        self.trace.kept[-1] = after.kept()
        self.trace.entering[:] = torch.tensor(choice.keep)[:, None]
        self.trace.schedules = [f"before:{count}" if count else "no image" for count in choice.keep]
        positions, following = self._positions(after, kwargs.get("position_ids"))
        mask = self._mask(after, embeds, prompt)
        left = {name: self._left(value, after) for name, value in kwargs.items()}
        given = {"input_ids": None, "inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}
        shorter = None if prefix is None else prefix.shorter(before.length - after.length)
        return {**left, **given}, Entered(after, following, shorter)

    def _leaves_alike(self, choice: Choice) -> bool:
        """Whether prompts that begin alike still do: as many tokens go in of each, whatever is asked."""
        return not (self.chooser.look.asked or self.method.counts_itself) and len(set(choice.keep)) == 1

    @staticmethod
    def _left(value: Any, left: Segment) -> Any:
        """Of what the decoder is given for every token, by layer (Gemma 4), what is of those that are left."""
        if not isinstance(value, Tensor) or value.ndim < 4:
            return value
        return value.gather(1, left.ids[..., None, None].expand(-1, -1, *value.shape[2:]))

    def decode(self, entered: Entered | None, cached: int, kwargs: Kwargs) -> Kwargs:
        """The decoder's arguments of a decode step after `cached` tokens."""
        self.left = None
        if entered is None:
            return kwargs
        left, step = entered.left, cached - entered.left.length
        mask = left.mask(step)
        positions = left.positions(step, self.anatomy.first_position)
        if entered.next is not None:
            positions = entered.next + step
        return {**kwargs, "attention_mask": None if mask is None else mask.long(), "position_ids": positions}

    def _check_made(self, choice: Choice, length: int) -> None:
        why = self.anatomy.no_place if choice.made is not None else ""
        if why and bool((choice.numbers >= length).any()):
            raise no_place(self.method, why)

    @staticmethod
    def _holds_features(embeds: Tensor, segment: Segment, entering: Tensor) -> bool:
        holds = (gather_tokens(embeds, segment.vision_index) != 0).any(-1)
        return bool((holds & segment.vision_mask & ~entering).any())

    # Positions and masks -----------------------------------------------------------------------------------------

    def _positions(self, left: Segment, whole: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Positions of what is left, and of the first token behind it, (axes, B, 1), where there are several axes.

        On one axis the pruned prompt is simply a shorter one. On several every token keeps its own.
        """
        counted = left.positions(None, self.anatomy.first_position)
        if not self.anatomy.several_axes or whole is None or whole.ndim == 2:
            return counted, None
        ids = left.ids.to(whole.device).expand(*whole.shape[:-2], *left.ids.shape)
        own = whole.expand(-1, len(left.ids), -1).gather(-1, ids)
        there = own if left.valid is None else own.masked_fill(~left.valid, 0)
        axes = there[-3:]  # a fourth in front counts tokens
        following = axes.amax((0, 2))[None, :, None].expand(3, -1, -1) + 1
        if len(own) > 3:
            own = torch.cat([counted.expand(own.shape[1:])[None], own[1:]])
        return own, following

    def _mask(self, left: Segment, embeds: Tensor, prompt: Prompt) -> Any:
        if not self.anatomy.follows:
            return None if left.valid is None else left.valid.long()
        return Masks(self.anatomy).of_all_layers(embeds, left, prompt.follow)


def _enter(prompt: Prompt, before: Segment, choice: Choice, in_place: bool) -> tuple[Segment, Tensor]:
    """What is left of the prompts, and the place (B, n) that each token of it has there.

    `in_place`: padding stays where it is, and does not move to the left.
    """
    numbered = replace(before, ids=choice.numbers)
    if in_place:
        return without(numbered, choice.entering, choice.keep)
    places = before.ids[..., None]
    after, _, order = shorten(numbered, places, choice.entering, choice.keep, prompt.text_after)
    return after, order
