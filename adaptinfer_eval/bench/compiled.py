"""Fewer kernels to launch: the parts of decoder layers that know no sequence, compiled for each length by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

LENGTHS = 256
"""Lengths of the sequence that are compiled for; beyond them torch goes on without compiling."""


@contextmanager
def compiled(decoder: Any) -> Iterator[None]:
    """Compile norms and MLPs of `decoder.layers`, a kernel for each run of operations between matrix products.

    Hooks and attention stay as they are, so that every method works; each stage has its own length, met first in
    warm-up. Outside the block the model is as before.
    """
    parts = [
        part for layer in decoder.layers for part in (layer.input_layernorm, layer.post_attention_layernorm, layer.mlp)
    ]
    with torch._dynamo.config.patch(recompile_limit=LENGTHS, accumulated_recompile_limit=4 * LENGTHS):
        for part in parts:
            part.compile(dynamic=False)
        try:
            yield
        finally:
            for part in parts:
                part._compiled_call_impl = None
