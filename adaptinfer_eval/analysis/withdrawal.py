"""VTW's search for the layer before which all vision tokens may leave, with the answer's first token hardly changed."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from rich.console import Console

from adaptinfer_eval.analysis.asked import Asked
from adaptinfer_eval.analysis.over_samples import Measure, observe_samples, uncounted
from adaptinfer_eval.methods.method import get_method
from adaptinfer_eval.models.batch import Batch

FIRST = 5
"""The authors' code looks at no earlier layer."""


def divergences(model: Any, batch: Batch) -> tuple[NDArray[Any], list[str]]:
    """KL(without vision tokens from layer K on ‖ with all) of the first token of each answer, (B, layers - FIRST).

    For every K from `FIRST` on; and for each prompt why it does not count.
    """
    batch = model.encode_images(batch)
    depth, vision = len(model.anatomy.layers), model.anatomy.is_vision(batch.inputs["input_ids"]).any(1).tolist()
    whole = model.logits(batch, get_method("vanilla")()).double().log_softmax(-1)
    found = []
    for layer in range(FIRST, depth):
        left = model.logits(batch, get_method("vtw")(schedule=f"{layer - 1}:0")).double().log_softmax(-1)
        found.append((left.exp() * (left - whole)).sum(-1))
    return torch.stack(found, 1).cpu().numpy(), uncounted(vision, vision)


def measure_withdrawal(asked: Asked, console: Console) -> dict[int, float]:
    """Mean divergence over the samples of one task, for each K. SweepError as in `observe_samples`."""
    ((_, sums),) = observe_samples(asked, Measure("VTW's layer", divergences, [divergences]), console).sums.items()
    assert sums.total is not None
    return {FIRST + number: float(total) / sums.measured for number, total in enumerate(sums.total)}


def first_layer(means: dict[int, float], threshold: float) -> int | None:
    """The smallest K whose mean is at most `threshold`; None where no mean is."""
    return min((layer for layer, mean in means.items() if mean <= threshold), default=None)
