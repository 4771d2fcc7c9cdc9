"""Pictures as the original models read them, and which requests are about the same one: batches are made of those."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from urllib.request import urlopen

import PIL.Image
import torch
from PIL import ImageFile
from torch import Tensor

from adaptinfer_eval.models.requests import Request
from adaptinfer_eval.pruning.prefix import SharedPrefix

_NAMES = ("imageId", "image_id")
"""Columns that name a picture that is stored elsewhere (GQA)."""


def read_picture(source: Any) -> PIL.Image.Image:
    """A picture (Pillow's, a path, a URL) as models' own code reads it: `Image.open(path).convert("RGB")`.

    So the colour that is stored below transparent pixels shows, and a picture is not turned by what EXIF says of the
    camera. Pillow keeps a note of the transparent colour behind `convert`; without it nobody lays white under it later.
    OSError for a picture that ends too early, also where lmms-eval has told Pillow to fill up such pictures in grey.
    """
    with all_of_pictures():
        if not isinstance(source, PIL.Image.Image):
            remote = str(source).startswith(("http://", "https://", "data:", "file:"))
            source = PIL.Image.open(BytesIO(urlopen(source).read()) if remote else source)
        picture: PIL.Image.Image = source.convert("RGB")
    picture.info.pop("transparency", None)
    return picture


@contextmanager
def all_of_pictures() -> Iterator[None]:
    """Pictures that end too early are errors inside, whatever lmms-eval has set for all of the process."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def stored_pictures(documents: Mapping[str, Mapping[str, Any]]) -> Callable[[Request], Hashable]:
    """Guesses a request's picture from its document as it is stored: no image is decoded.

    `documents`: by task and split. A wrong guess costs time, not answers: `shared_prefix` looks at the pictures.
    """

    @functools.cache
    def undecoded(task: str, split: str) -> Any:
        stored = documents[task][split]
        return stored.with_format("arrow") if hasattr(stored, "with_format") else None

    def picture(request: Request) -> Hashable:
        unknown = (request.task, request.position)
        known = getattr(documents[request.task].get(request.split or ""), "picture", None)
        if known is not None:  # documents that know it themselves
            return (request.task, known(request.doc_id))
        if request.split is None or (stored := undecoded(request.task, request.split)) is None:
            return unknown
        document = stored[request.doc_id : request.doc_id + 1].to_pylist()[0]
        images = [value for value in document.values() if isinstance(value, dict) and "bytes" in value]
        shown = tuple(hash(image["bytes"] or image["path"]) for image in images)
        return shown or next((str(document[name]) for name in _NAMES if name in document), unknown)

    return picture


def shared_prefix(pictures: Sequence[Hashable], inputs: Mapping[str, Tensor], is_image: Tensor) -> SharedPrefix | None:
    """What the prompts of a left-padded batch begin with, up to the end of their images; None if no two begin alike.

    `pictures`: of each prompt. `is_image` (B, L): where vision tokens stand. All prefixes must be of one length, with
    text behind each.
    """
    ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
    counts = set(is_image.sum(1).tolist())
    lengths = set(torch.where(is_image, real.cumsum(1), 0).amax(1).tolist())
    if len(lengths) > 1 or len(counts) > 1 or is_image[:, -1].any() or not is_image.any():
        return None
    length = lengths.pop()
    known: dict[Hashable, int] = {}
    first = []
    for row, (picture, tokens, valid) in enumerate(zip(pictures, ids, real, strict=True)):
        first.append(known.setdefault((picture, tuple(tokens[valid][:length].tolist())), row))
    return SharedPrefix(length, tuple(first)) if len(known) < len(first) else None


def pad_behind(prefix: SharedPrefix, inputs: MutableMapping[str, Tensor]) -> None:
    """Move the left padding of `inputs` to between prefix and question.

    It becomes each question's last token: generation that looks at the tokens so far (repetition penalties) passes over
    padding on the left only.
    """
    real = inputs["attention_mask"].bool()
    inputs["input_ids"] = torch.where(real, inputs["input_ids"], inputs["input_ids"][:, -1:])
    part = torch.where(real, torch.where(real.cumsum(1) <= prefix.length, 0, 2), 1)
    order = part.argsort(dim=1, stable=True)
    moved = {name: value.gather(1, order) for name, value in inputs.items() if value.shape == order.shape}
    inputs.update(moved)
