"""Answers are read from finite logits only: an overflow is an error, never an answer.

Half precision overflows silently: NaN in every logit, of which `argmax` makes token 0, and an empty answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def finite_logits(model: Any) -> Iterator[None]:
    """FloatingPointError at the end of the block where a logit that `model` chose a token by was NaN or infinite.

    Every forward adds the logits of the last position up on the device; the sum is read once, when the block ends.
    """
    total: list[Tensor] = []

    def add(module: Any, arguments: Any, output: Any) -> None:
        # NaN and infinities stay in a sum; finite logits are too small to overflow one in float32.
        step = output.logits[:, -1].sum(dtype=torch.float32)
        total[:] = [step + total[0] if total else step]

    handle = model.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
    if total and not total[0].isfinite():
        dtype = str(model.dtype).removeprefix("torch.")
        remedy = {
            "float32": "its weights are damaged, download the checkpoint again",
            "bfloat16": "use dtype=float32",
        }.get(dtype, "use dtype=bfloat16 or dtype=float32")
        raise FloatingPointError(f"{model.name_or_path} in {dtype} gives logits that are not finite: {remedy}")
