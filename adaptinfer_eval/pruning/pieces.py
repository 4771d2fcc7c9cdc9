"""The images of a prompt batch one by one, with what the vision tower showed of each and what is to go in of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from adaptinfer_eval.backbones.anatomy import Anatomy
from adaptinfer_eval.backbones.towers import Grid, Tower
from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Look
from adaptinfer_eval.pruning.given import Given
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.shown import Shown


@dataclass(frozen=True)
class Piece:
    """Image `number` of prompt `prompt`, or a tile: where its tokens begin there, how many they are, how many go in.

    `grid`: of its tokens, None where it is not known.
    """

    prompt: int
    number: int
    first: int
    tokens: int
    budget: int
    grid: Grid | None
    shown: Shown | None


def pieces_of(
    prompt: Prompt, method: ImageMethod, look: Look, anatomy: Anatomy, given: Given, noted: Sequence[Shown]
) -> list[Piece]:
    """Prompt by prompt. Where an image is several in the tower, and the method looks there, each of these by itself.

    `noted`: what was seen in the block. ValueError where the method looks at what was not, or budgets do not fit.
    """
    tiles = [[_tiles(tokens, anatomy.tower) for tokens in sizes] for sizes in prompt.sizes]
    shown = _shown(tiles, method, look, given, noted)
    pieces = []
    for row, (sizes, of_prompt) in enumerate(zip(prompt.sizes, tiles, strict=True)):
        number = first = 0
        left = iter(shown[row]) if shown else None
        for tokens, budget, parts in zip(sizes, method.image_budgets(sizes), of_prompt, strict=True):
            if budget > tokens:
                raise ValueError(
                    f"budget={method.budget}: the image has only {tokens} vision tokens: use vanilla, or give a share "
                    "of them (0.25)"
                )
            of_image = [] if left is None else list(islice(left, parts))
            if not look.tower:
                of_image, parts = _as_frames(of_image), 1
            if budget < parts and not method.counts_itself:
                raise ValueError(f"budget={method.budget} is less than a token for each of an image's {parts} tiles")
            for part in range(parts):
                own = budget // parts + (part < budget % parts)
                there = of_image[part] if of_image else None
                grid = _grid(tokens // parts, there, anatomy)
                pieces.append(Piece(row, number, first, tokens // parts, own, grid, there))
                number, first = number + 1, first + tokens // parts
    return pieces


def _grid(tokens: int, shown: Shown | None, anatomy: Anatomy) -> Grid | None:
    """As the tower showed it; where it did not, a square, if all images are alike, or nobody knows better."""
    if shown is not None:
        return shown.grid if math.prod(shown.grid) == tokens else None
    side = math.isqrt(tokens)
    alike = bool(anatomy.image_tokens) or anatomy.multimodal is None
    return (side, side) if alike and side**2 == tokens else None


def _tiles(tokens: int, tower: Tower | None) -> int:
    """How many images an image of so many tokens is in the tower; 0 where its tokens are not those of whole tiles."""
    if tower is None or tower.tile is None:
        return 1
    whole = math.prod(tower.tile)
    return 0 if tokens % whole else tokens // whole


def _shown(
    tiles: Sequence[Sequence[int]], method: ImageMethod, look: Look, given: Given, noted: Sequence[Shown]
) -> Sequence[Sequence[Shown]]:
    """What the tower showed of each prompt's `tiles`; nothing where the method looks at nothing there."""
    if not all(map(all, tiles)):
        if not look.tower:
            return []
        raise ValueError(
            f"{method.name} chooses by what the vision tower computes of whole tiles, and here tokens of theirs are "
            "left out, and marks put between: use packing=flat"
        )
    found = given.shown_of([sum(of_prompt) for of_prompt in tiles], noted, needed=look.tower)
    if found and all(shown.holds(look) for own in found for shown in own):
        return found
    if look.tower:
        raise ValueError(
            f"{method.name} chooses by what the vision tower computes, and the images were not encoded inside the "
            "block: pass pixel_values, not features computed before"
        )
    return []


def _as_frames(tiles: Sequence[Shown]) -> list[Shown]:
    """Tiles of one image as if they were frames of a video."""
    grids = {own.grid for own in tiles}
    return list(tiles) if len(tiles) == 1 else [Shown((len(tiles), *grid)) for grid in grids if len(grids) == 1]
