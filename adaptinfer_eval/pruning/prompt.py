"""What a prompt batch consists of: one look at its masks, one copy of all counts to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """`is_vision` (B, L); `valid` (B, L) is False on padding, None where there is none.

    Per sample, on the host: `real` tokens, `vision` tokens, the number of `images` that they are of, the column where
    the last one ends (`images_end`), and the tokens of `text_after` it, both 0 without an image. `sizes`: vision tokens
    of each image, where methods need them.
    `text_mask` (B, T): which of the last T = max(text_after) tokens are text after the image. `follow`: what masks are
    made from, (B, L) by name, where a model has them made from more than the order of tokens. `columns` (B, L): of what
    is left of other prompts, which token of those each is; None of prompts as they came.
    """

    is_vision: Tensor
    valid: Tensor | None
    real: list[int]
    vision: list[int]
    images: list[int]
    images_end: list[int]
    text_after: list[int]
    text_mask: Tensor
    follow: Mapping[str, Tensor] = field(default_factory=dict)
    sizes: Sequence[Sequence[int]] = ()
    columns: Tensor | None = None


def read_prompt(
    is_vision: Tensor, attention_mask: Tensor | None, image_tokens: int = 0, images: Tensor | None = None
) -> Prompt:
    """Count the tokens of a batch padded on the left, or between image and text; ValueError if it ends in padding.

    `image_tokens`: of each image. Where they are not known (0), a prompt has so many `images` (B,), or, where they are
    not known either, vision tokens that stand side by side are one.
    """
    length = is_vision.shape[1]
    valid = None if attention_mask is None else attention_mask.to(is_vision.device, torch.bool)
    columns = torch.arange(length, device=is_vision.device)
    last = torch.where(is_vision, columns, -1).amax(1)
    behind = columns > last[:, None]
    behind = behind if valid is None else behind & valid
    text_after = torch.where(last < 0, 0, behind.sum(1))
    real = torch.full_like(last, length) if valid is None else valid.sum(1)
    unpadded = torch.ones_like(last) if valid is None else valid[:, -1].long()
    runs = images
    if runs is None:
        runs = is_vision[:, 0] + (is_vision[:, 1:] & ~is_vision[:, :-1]).sum(1)
    counts = torch.stack([real, is_vision.sum(1), last + 1, text_after, unpadded, runs]).tolist()
    if not all(counts[4]):
        raise ValueError("the batch is padded on the right; pad on the left (tokenizer.padding_side = 'left')")
    if image_tokens and any(count % image_tokens for count in counts[1]):
        raise ValueError(
            f"prompts have {sorted(set(counts[1]))} vision tokens, not multiples of the {image_tokens} of an image: "
            "whole images are needed; processor and model may disagree, or one was cut off"
        )
    longest = max(counts[3])
    text_mask = columns[:longest] >= longest - text_after[:, None]
    return Prompt(
        is_vision=is_vision,
        valid=valid if min(counts[0]) < length else None,
        real=counts[0],
        vision=counts[1],
        images=[count // image_tokens for count in counts[1]] if image_tokens else counts[5],
        images_end=counts[2],
        text_after=counts[3],
        text_mask=text_mask,
    )


def sizes_of(prompt: Prompt, image_tokens: int, numbers: Tensor | None, alike: bool = False) -> list[list[int]]:
    """Vision tokens of each image of each prompt: `image_tokens`, or, where they differ (0), as `numbers` says.

    `numbers` (B, L): which of its prompt's images a vision token is of. None: those that stand side by side are one.
    `alike`: several images of one prompt have as many each. ValueError where they are not as many images as the prompt
    is said to have.
    """
    if image_tokens:
        return [[image_tokens] * images for images in prompt.images]
    if numbers is None:
        before = prompt.is_vision.roll(1, 1)
        before[:, 0] = False
        numbers = (prompt.is_vision & ~before).cumsum(1) - 1
    most = max(prompt.images)
    beyond = numbers.masked_fill(~prompt.is_vision | (numbers >= most), most)  # of text, and of more than there are
    counts = torch.zeros(len(beyond), most + 1, dtype=torch.long, device=beyond.device)
    counts = counts.scatter_add(1, beyond, torch.ones_like(beyond))[:, :most]
    so_far = numbers.masked_fill(~prompt.is_vision, -1).cummax(1).values
    mixed = (prompt.is_vision & (numbers < so_far)).any(1, keepdim=True)
    sizes = torch.cat([counts, mixed], 1).tolist()
    if any(own.pop() for own in sizes):
        raise ValueError(
            "a prompt shows a video before an image, which methods that choose image by image do not tell apart: show "
            "the image first, or use a method that prunes between layers"
        )
    found = [own[:images] for own, images in zip(sizes, prompt.images, strict=True)]
    whole = [0 not in own for own in found]
    if alike:
        found = [
            own if right or tokens % images else [tokens // images] * images
            for own, right, tokens, images in zip(found, whole, prompt.vision, prompt.images, strict=True)
        ]
        whole = [0 not in own for own in found]
    if [sum(own) for own in found] != prompt.vision or not all(whole):
        raise ValueError(
            "images of unequal numbers of tokens stand side by side, and it is not known where one ends: put text "
            "between them, or use a method that prunes between layers"
        )
    return found
