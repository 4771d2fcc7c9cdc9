"""Which vision tokens each request kept, small enough to be written down with every answer."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # light: what was kept is read without torch
    from torch import Tensor

    from adaptinfer_eval.pruning.trace import Trace


def kept_tokens(trace: Trace, is_vision: Tensor, images: list[int]) -> list[dict[str, Any]]:
    """Per row of a batch: `kept`, by layer the bits (`pack`) of the prompt's vision tokens that go on after it.

    `is_vision` (B, L): where the prompts' vision tokens stand. `images`: of each row. Merged tokens are in no bit:
    `groups` has them, by layer for each vision token (`pack_numbers`) the number of the merged token that it is part
    of, from 1 as they were made; 0 where it is part of none.
    Where tokens were merged in the vision tower, `assign` is there instead: per vision token the merged token that it
    went into, from 0; an image's merged tokens follow those of the image before.
    """
    import torch

    rows: list[dict[str, Any]] = [{"kept": {}} for _ in images]
    for layer, kept in sorted(trace.kept.items()):
        if trace.assign is not None and layer == -1:
            continue  # all that is dropped there are fillers
        length = is_vision.shape[1]
        # One column more takes what is no token of the prompt: padding (-1) and merged tokens (from `length` on).
        goes_on = torch.zeros(len(images), length + 1, dtype=torch.bool)
        columns = kept.cpu()
        goes_on.scatter_(1, torch.where((columns < 0) | (columns >= length), length, columns), True)
        for row, bits, vision in zip(rows, goes_on[:, :length], is_vision, strict=True):
            if vision.any():
                row["kept"][str(layer)] = pack(bits[vision].numpy())
    vision = is_vision.sum(1).tolist()
    for layer, groups in sorted(trace.groups.items()):
        for row, numbers, tokens in zip(rows, groups.cpu().numpy(), vision, strict=True):
            if (numbers >= 0).any():
                row.setdefault("groups", {})[str(layer)] = pack_numbers(numbers[:tokens] + 1)
    if trace.assign is not None:
        merged = trace.assign.cpu()[:, 1:] - 1  # row 0 of the tower's output is CLS, which nothing is merged into
        first = 0
        for row, count in zip(rows, images, strict=True):
            if count:
                own = merged[first : first + count]
                made = own.amax(1, keepdim=True) + 1  # merged tokens of each image
                own = own + made.cumsum(0) - made
                row["assign"] = pack_numbers(own.numpy())
            first += count
    return rows


def outlived(trace: Trace, is_vision: Tensor) -> Tensor:
    """How many stages each vision token outlived, (B, V), in order; rows with fewer tokens end in 0.

    `is_vision` (B, L): where the prompts' vision tokens stand.
    """
    import torch

    numbers = (is_vision.cumsum(1) - 1).clamp(min=0)
    stages = torch.zeros(len(is_vision), int(is_vision.sum(1).max()))
    for kept in trace.kept.values():
        columns = kept.cpu()
        stages.scatter_add_(1, numbers.gather(1, columns.clamp(min=0)), (columns >= 0).float())
    return stages


def pack(bits: Any) -> str:
    """Booleans as base64, eight to a byte, the first in the highest bit."""
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def unpack(text: str, count: int) -> Any:
    """The first `count` booleans of `pack`."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)


def pack_numbers(numbers: Any) -> str:
    """Small whole numbers as base64 of zlib-compressed little-endian uint16."""
    return base64.b64encode(zlib.compress(numbers.astype("<u2").tobytes())).decode()


def unpack_numbers(text: str, count: int) -> Any:
    """The first `count` numbers of `pack_numbers`."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u2", count=count).astype(int)
