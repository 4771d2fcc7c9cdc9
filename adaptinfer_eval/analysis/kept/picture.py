"""Pictures as a model saw them, and as `data:` addresses. Pure functions."""

from __future__ import annotations

import base64
import io

from PIL import Image, ImageOps

from adaptinfer_eval.backbones.family import Square

SIDE = 336
"""Pixels: what CLIP ViT-L/14 of LLaVA-1.5 sees. Smaller pictures are kept as they are."""
LOSSLESS = 128
"""Pixels: pictures up to this size are small enough to be embedded without loss."""
CLIP_MEAN = (122, 116, 104)
"""The colour that LLaVA-1.5 pads with: CLIP's mean, in 0..255."""


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
