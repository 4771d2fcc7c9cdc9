"""A checkpoint's model, whole or not at all: every weight is the checkpoint's own, and finite.

transformers fills what a checkpoint lacks with random numbers, and passes over what it does not know, with a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from adaptinfer_eval.models.checkpoint import CheckpointError


def load_model(pretrained: str, **options: Any) -> Any:
    """The model of a folder or hub id; `options` are those of `from_pretrained`.

    Raises CheckpointError where a weight is missing, unexpected, of another shape or not finite.
    """
    auto: Any = AutoModelForImageTextToText
    model, found = auto.from_pretrained(
        pretrained,
        ignore_mismatched_sizes=True,  # so that they are named below, and not in a log
        output_loading_info=True,
        **options,
    )
    problems = {
        "missing": found["missing_keys"],
        "not of this model": unexpected(model, found["unexpected_keys"]),
        "of another shape": {name for name, *_ in found["mismatched_keys"]},
    }
    said = [f"{_list(names)} {problem}" for problem, names in problems.items() if names]
    if said:
        raise CheckpointError(
            f"{pretrained} does not hold the weights of the model in its config.json ({'; '.join(said)}): "
            "download the checkpoint again, or mend its config.json"
        )
    if names := not_finite(model):
        dtype = str(model.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{pretrained} has weights that are not finite in {dtype} ({_list(names)}): "
            "use dtype=bfloat16 or dtype=float32, or download it again if they are damaged"
        )
    return model


def unexpected(model: nn.Module, names: Iterable[str]) -> set[str]:
    """Those of a checkpoint's unknown `names` that tell of another model.

    Old checkpoints also hold buffers that models compute by themselves today, so that they are in no checkpoint any
    more: rotary `inv_freq` of every layer, `position_ids` of a vision tower. These lose nothing, wherever they stand.
    """
    saved = model.state_dict().keys()
    computed = {name.rpartition(".")[2] for name, _ in model.named_buffers() if name not in saved}
    return {name for name in names if name.rpartition(".")[2] not in computed}


@torch.no_grad()
def not_finite(model: nn.Module) -> list[str]:
    """Names of the weights that hold NaN or infinities. One pass over all, where they are computed with."""
    names, flags = zip(*_flags(model), strict=True)
    # All that was asked of a device is fetched at once.
    by_device: dict[torch.device, list[int]] = {}
    for index, flag in enumerate(flags):
        by_device.setdefault(flag.device, []).append(index)
    finite = {
        index: ok
        for indices in by_device.values()
        for index, ok in zip(indices, torch.stack([flags[index] for index in indices]).tolist(), strict=True)
    }
    return [name for index, name in enumerate(names) if not finite[index]]


def _flags(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in model.named_modules():
        with align_module_device(module):  # fetches weights that are off-loaded, module by module
            for name, weight in module.named_parameters(recurse=False):
                # Quantized weights are whole numbers, or have no infinities to look for.
                if weight.is_floating_point() and weight.element_size() > 1 and weight.numel():
                    low, high = weight.aminmax()  # NaN comes out as NaN
                    yield f"{prefix}.{name}", low.isfinite() & high.isfinite()


def _list(names: Iterable[str]) -> str:
    first, *others = sorted(names, key=lambda name: re.sub(r"\d+", lambda number: number[0].zfill(9), name))
    return first if not others else f"{first} and {len(others)} more"
