"""FitPrune's calibration: how many vision tokens each layer can spare, for a share of FLOPs that is to be saved.

Ye et al., arXiv 2409.10197, Algorithm 1. For a loss alpha, a layer spares the tokens that are among the least attended
to both by the text and by the vision tokens, as many as take no more than alpha of either sum. The smallest alpha that
saves enough says how many.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from adaptinfer_eval.analysis.asked import Asked
from adaptinfer_eval.analysis.over_samples import Measure, observe_samples, uncounted
from adaptinfer_eval.backbones import FAMILIES
from adaptinfer_eval.cost import prefill_macs
from adaptinfer_eval.methods.method import get_method
from adaptinfer_eval.methods.schedule import Schedule, Stage
from adaptinfer_eval.methods.seen import Attention
from adaptinfer_eval.models.batch import Batch
from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.sweep.shape import model_shape

STEPS = 128
"""Losses are tried in so many steps from 0 to 1, where the authors' bisection ends."""


def spared(from_text: Tensor, from_vision: Tensor, mask: Tensor) -> Tensor:
    """Share of each prompt's vision tokens that each layer spares, for every loss 1 / STEPS …, (B, STEPS - 1, L).

    `from_text`, `from_vision` (L, B, V): what tokens get of the text's and the vision tokens' attention in each layer
    of a prefill in which nothing is pruned; `mask` (B, V) is False on padding. Tokens go once and for all.
    """
    loss = torch.arange(1, STEPS, device=mask.device, dtype=torch.float64) / STEPS
    there = mask[:, None].repeat(1, STEPS - 1, 1)
    shares = []
    for sums in zip(from_text.double(), from_vision.double(), strict=True):
        gone = there
        for received in sums:
            order = received.masked_fill(~mask, torch.inf).argsort(dim=1, stable=True)[:, None].expand_as(there)
            rising = torch.where(there, received[:, None], 0).gather(2, order)
            left = rising.sum(2, keepdim=True) - rising.cumsum(2)
            enough = left >= torch.where(mask, received, 0).sum(1)[:, None, None] * (1 - loss[:, None])
            gone = gone & torch.zeros_like(gone).scatter(2, order, enough)
        shares.append(gone.sum(2) / mask.sum(1).clamp(min=1)[:, None])
        there = there & ~gone
    return torch.stack(shares, 2)


def spared_of_batch(model: Any, batch: Batch) -> tuple[NDArray[Any], list[str]]:
    """`spared` of the prompts of a batch, 0 in layers after which nothing can be pruned; and why some do not count."""
    ids, depth = batch.inputs["input_ids"], len(model.anatomy.layers)
    vision = model.anatomy.is_vision(ids)
    reasons = uncounted(vision.any(1).tolist(), (vision.any(1) & ~vision[:, -1]).tolist())
    if not any(vision.any(1)):
        return np.zeros(0), reasons
    layers = [layer for layer in model.anatomy.attending if layer < depth - 1]
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    model.logits(batch, _keeping_all(layers, seen))
    from_text, from_vision, masks = zip(*seen, strict=True)
    device = masks[0].device
    by_text, by_vision = (torch.stack([each.to(device) for each in sums]) for sums in (from_text, from_vision))
    found = spared(by_text, by_vision, masks[0])
    shares = np.zeros((len(found), STEPS - 1, depth))
    shares[..., layers] = found.cpu().numpy()
    return shares, reasons


def _keeping_all(layers: Sequence[int], seen: list[tuple[Tensor, Tensor, Tensor]]) -> Any:
    """FitPrune with a stage after each of `layers`, which adds its two sums to `seen` and drops nothing."""
    method: Any = copy.copy(get_method("fitprune")(schedule=",".join(f"{layer}:0" for layer in layers)))

    def score(attention: Attention) -> Tensor:
        from_text, from_vision = method.sums(attention)
        seen.append((from_text, from_vision, attention.vision_mask))
        return attention.vision_mask.float()

    # A method is frozen, and this one is nobody else's.
    object.__setattr__(method, "score", score)
    object.__setattr__(method, "keep_count", lambda keep, vision_tokens, current: current)
    return method


def measure_schedule(asked: Asked, reduction: float, console: Console) -> tuple[Schedule, float]:
    """The schedule that saves `reduction` percent of the FLOPs for one task's vision tokens, and its loss.

    In tokens, where all images have as many, else in shares. SweepError where no loss saves as much, and as in
    `observe_samples`.
    """
    ((_, sums),) = observe_samples(asked, Measure("FitPrune", spared_of_batch, [spared]), console).sums.items()
    assert sums.total is not None
    shape = model_shape(asked.config)
    sizes = shape.vision_tokens, shape.hidden_size, shape.intermediate_size
    for number, shares in enumerate(sums.total / sums.measured, 1):
        left = fitted(shares, reduction / 100, *sizes)
        if left is not None:
            stages = [
                Stage(layer, keep) for layer, keep in enumerate(left) if keep < (shape.vision_tokens, *left)[layer]
            ]
            found = Schedule(stages)
            any_size = FAMILIES[asked.config.backbone].any_size
            return found.in_shares(shape.vision_tokens) if any_size else found, number / STEPS
    raise SweepError(f"no loss of attention saves {reduction:g} % of this model's FLOPs: ask for a smaller --reduction")


def fitted(
    shares: NDArray[Any], reduction: float, vision_tokens: int, hidden_size: int, intermediate_size: int
) -> list[int] | None:
    """Tokens left after each layer, when those go that it spares (`shares`, (L,)) until `reduction` is saved.

    None where that is never so. Counts are of vision tokens alone, rounded down, by Eq. 5 of AdaptInfer.
    """
    depth, sizes = len(shares), (hidden_size, intermediate_size)
    goal = (1 - reduction) * prefill_macs([vision_tokens] * depth, *sizes)
    left: list[int] = []
    for layer, share in enumerate(shares):
        now = left[-1] if left else vision_tokens
        entering = [vision_tokens, *left]
        if prefill_macs(entering + [now] * (depth - len(entering)), *sizes) <= goal:
            return left + [now] * (depth - layer)
        left.append(now - int(vision_tokens * share))
    return None
