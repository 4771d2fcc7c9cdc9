"""Attention shifts: at which layer the text's attention to the image's most important tokens changes.

Figures 3 and A.6 of AdaptInfer (arXiv 2508.06084), its Appendices A and B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from adaptinfer_eval.analysis.asked import Asked
from adaptinfer_eval.analysis.change import change_points
from adaptinfer_eval.analysis.over_samples import Measure, observe_samples, of_received
from adaptinfer_eval.pruning.observer import Received


def shift_counts(layers: Sequence[Received]) -> NDArray[Any]:
    """How many of each sample's important vision tokens have their change point at each layer, (B, L) int.

    Important are the 10 % of a prompt's vision tokens, of all its images, that receive the most from the text behind
    them over all layers and heads: 58 of 576. A token's curve is what it receives at each layer (Eq. 8).
    """
    device = layers[0].vision.device
    curves = torch.stack([layer.vision.to(device) for layer in layers], -1)  # (B, V, L)
    mask = layers[0].vision_mask
    order = curves.sum(-1).masked_fill(~mask, -torch.inf).argsort(stable=True, dim=1, descending=True)
    tokens = -(-mask.sum(1) // 10)  # a tenth, rounded up
    important = torch.arange(mask.shape[1], device=device) < tokens[:, None]
    best = curves.gather(1, order[..., None].expand(curves.shape)).cpu().double().numpy()
    samples, slots = important.cpu().numpy().nonzero()
    points = change_points(best[samples, slots])
    batch, depth = len(best), len(layers)
    return np.bincount(samples * depth + points, minlength=batch * depth).reshape(batch, depth)


def measure_shift(asked: Asked, console: Console) -> dict[str, Any]:
    """The distribution of change points over layers for every task, and what it was measured from.

    As it is written to shift.json, but for what is proposed. SweepError as in `observe_samples`.
    """
    measure = Measure("attention shift", of_received(shift_counts), [shift_counts, change_points])
    found = observe_samples(asked, measure, console)
    histograms = {task: [] if sums.total is None else sums.total.tolist() for task, sums in found.sums.items()}
    return {
        "layers": max(map(len, histograms.values())),
        "histograms": histograms,
        "measured": {task: sums.measured for task, sums in found.sums.items()},
        "left_out": {task: sums.left_out for task, sums in found.sums.items()},
        "available": dict(found.available),
        **found.sources,
    }
