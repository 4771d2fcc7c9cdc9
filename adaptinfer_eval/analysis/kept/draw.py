"""A picture with what is left of it at a stage: kept patches clear, merged ones in their mean colour, others dimmed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from adaptinfer_eval.analysis.kept.outlines import lines
from adaptinfer_eval.analysis.kept.stages import Stage, side_of

PIXELS = 384
"""At least so wide is a drawing."""
DIM = 0.8
"""Share of white over what was dropped."""


def stage_images(image: Image.Image, stages: Sequence[Stage]) -> list[tuple[str, Image.Image]]:
    """A title and a drawing for each stage, in order; [] without stages.

    `image`: the square that the model saw (`as_seen`). ValueError where the vision tokens are not its patches.
    """
    return [(stage.title, stage_image(image, stage)) for stage in stages]


def stage_image(image: Image.Image, stage: Stage) -> Image.Image:
    """Patches that go on are as in `image`, lines around them; those of a merged token have their mean colour.

    Every pixel of a small image becomes a square of pixels, so that a kept patch has the image's own colours.
    """
    side = side_of(len(stage.kept))
    if side is None or image.width != image.height:
        raise ValueError(
            f"{len(stage.kept)} vision tokens over {image.width} × {image.height} pixels are not the patches of one "
            "square picture: their places in it are not known"
        )
    large = enlarged(image, side)
    pixels = np.array(large, np.float32)
    cells = np.arange(large.width) * side // large.width
    number = cells[:, None] * side + cells  # of the patch at every pixel
    pixels = np.where(stage.left[number][..., None], pixels, DIM * 255 + (1 - DIM) * pixels)
    mixed = np.where(stage.clear, 0, stage.group)
    pixels = np.where((mixed > 0)[number][..., None], _means(pixels, mixed[number])[mixed[number]], pixels)
    drawn = Image.fromarray(pixels.round().astype(np.uint8))
    labels = np.where(stage.kept, -1, stage.group).reshape(side, side)
    _draw_lines(drawn, labels, large.width // side)
    return drawn


def enlarged(image: Image.Image, side: int) -> Image.Image:
    """`image` at a multiple of its size and of `side`, at least `PIXELS` wide, no new colour in it."""
    step = math.lcm(image.width, side)
    if step <= 2 * PIXELS:
        width = step * math.ceil(PIXELS / step)
        return image.resize((width, width), Image.Resampling.NEAREST)
    width = side * math.ceil(max(image.width, PIXELS) / side)
    return image.resize((width, width), Image.Resampling.BICUBIC)


def _means(pixels: NDArray[np.float32], group: NDArray[np.int64]) -> NDArray[np.float32]:
    """The mean colour of each group, (groups + 1, 3)."""
    count = np.maximum(np.bincount(group.ravel()), 1)
    sums = [np.bincount(group.ravel(), pixels[..., colour].ravel()) for colour in range(3)]
    return (np.stack(sums, 1) / count[:, None]).astype(np.float32)


def _draw_lines(image: Image.Image, labels: NDArray[np.int64], step: int) -> None:
    """White on black, to be seen over any colour."""
    pen = ImageDraw.Draw(image)
    last = image.width - 1
    found = [tuple(min(at * step, last) for at in line) for line in lines(labels)]
    for width, colour in ((3, "black"), (1, "white")):
        for line in found:
            pen.line(line, fill=colour, width=width)
