"""Pictures as a model saw them, and which of their patches it kept, as SVG paths over them.

Paths are in units of patches: a grid of n × n patches fills the view box `0 0 n n`. Pure functions.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from adaptinfer_eval.models.kept import unpack

SIDE = 336
"""Pixels: what CLIP ViT-L/14 of LLaVA-1.5 sees. Smaller pictures are kept as they are."""
LOSSLESS = 128
"""Pixels: pictures up to this size are small enough to be embedded without loss."""
CLIP_MEAN = (122, 116, 104)
"""The colour that LLaVA-1.5 pads with: CLIP's mean, in 0..255."""


def as_seen(image: Image.Image, pad: bool) -> Image.Image:
    """The square that the model saw: `pad` with CLIP's mean colour around it, or else the central square alone."""
    image = image.convert("RGB")
    side = max(image.size) if pad else min(image.size)
    square = ImageOps.pad(image, (side, side), color=CLIP_MEAN) if pad else ImageOps.fit(image, (side, side))
    return square.resize((SIDE, SIDE), Image.Resampling.BICUBIC) if side > SIDE else square


def data_uri(image: Image.Image) -> str:
    """The picture as a `data:` address: PNG where it is small, so that no pixel changes, else JPEG."""
    buffer = io.BytesIO()
    form = "png" if is_small(image) else "jpeg"
    image.save(buffer, form, optimize=True, quality=85)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def is_small(image: Image.Image) -> bool:
    return max(image.size) <= LOSSLESS


def side_of(vision_tokens: int) -> int | None:
    """Patches along a side when the prompt's vision tokens are one square picture in row-major order, else None."""
    side = round(vision_tokens**0.5)
    return side if side * side == vision_tokens else None


def kept_patches(kept: Mapping[str, str], vision_tokens: int) -> dict[int, NDArray[np.bool_]]:
    """By layer, in order: whether each vision token goes on after it."""
    return {int(layer): unpack(kept[layer], vision_tokens) for layer in sorted(kept, key=int)}


def merged_into(assign: str, vision_tokens: int) -> NDArray[np.uint16]:
    """By vision token: the merged token that it became part of. From base64 of zlib of little-endian uint16."""
    return np.frombuffer(zlib.decompress(base64.b64decode(assign)), "<u2", count=vision_tokens)


def area(mask: NDArray[np.bool_]) -> str:
    """The SVG path that covers the cells where `mask` (rows, columns) is true: a rectangle for each run in a row."""
    return "".join(f"M{x} {y}h{end - x}v1H{x}z" for y, row in enumerate(mask) for x, end in _runs(row))


def borders(labels: NDArray[np.generic]) -> str:
    """The SVG path of the lines between neighbouring cells (rows, columns) of different labels.

    Beyond the picture's edge the label is 0 (False), so that a kept patch at the edge has a line there too.
    """
    ringed = np.pad(labels, 1)
    across = ringed[1:] != ringed[:-1]
    down = (ringed[:, 1:] != ringed[:, :-1]).T
    lines = [f"M{x - 1} {y}H{end - 1}" for y, row in enumerate(across) for x, end in _runs(row)]
    lines += [f"M{x} {y - 1}V{end - 1}" for x, column in enumerate(down) for y, end in _runs(column)]
    return "".join(lines)


def _runs(row: NDArray[np.bool_]) -> Iterable[tuple[int, int]]:
    """First and last + 1 of every run of true cells."""
    steps = np.flatnonzero(np.diff(np.concatenate(([0], row.astype(np.int8), [0]))))
    return zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True)
