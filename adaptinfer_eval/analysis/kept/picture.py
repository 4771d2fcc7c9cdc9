"""Pictures as a model saw them, and as `data:` addresses. Pure functions."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any, Literal

from PIL import Image, ImageOps

SIDE = 336
"""Pixels: what CLIP ViT-L/14 of LLaVA-1.5 sees. Smaller pictures are kept as they are."""
LOSSLESS = 128
"""Pixels: pictures up to this size are small enough to be embedded without loss."""
CLIP_MEAN = (122, 116, 104)
"""The colour that LLaVA-1.5 pads with: CLIP's mean, in 0..255."""
Square = Literal["pad", "crop", "stretch"]
"""How a picture becomes square: CLIP's mean colour around it, the central square alone, or both sides made equal."""


def squared(backbone: str, model_args: Mapping[str, Any]) -> Square | None:
    """How a picture becomes the square whose patches are, row by row, its vision tokens; None where they are none.

    `model_args`: of the backbone's wrapper, the default where one is left out. InternVL's tiles are squares one by
    one: with several to a picture, a token's place in it is not known here.
    """
    if backbone == "llava":
        return "pad" if model_args.get("image_aspect_ratio", "pad") == "pad" else "crop"
    return "stretch" if int(model_args.get("max_patches", 1)) == 1 else None


def as_seen(image: Image.Image, square: Square) -> Image.Image:
    """The square that the model saw, at most `SIDE` pixels wide."""
    image = image.convert("RGB")
    if square == "crop":
        side = min(image.size)
        image = ImageOps.fit(image, (side, side))
    else:
        side = max(image.size)
        image = ImageOps.pad(image, (side, side), color=CLIP_MEAN) if square == "pad" else image
    side = min(side, SIDE)
    return image if image.size == (side, side) else image.resize((side, side), Image.Resampling.BICUBIC)


def data_uri(image: Image.Image) -> str:
    """The picture as a `data:` address: PNG where it is small, so that no pixel changes, else JPEG."""
    buffer = io.BytesIO()
    form = "png" if is_small(image) else "jpeg"
    image.save(buffer, form, optimize=True, quality=85)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def read_uri(uri: str) -> Image.Image:
    """The picture of a `data_uri`."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")


def is_small(image: Image.Image) -> bool:
    return max(image.size) <= LOSSLESS
