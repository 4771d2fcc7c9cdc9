"""Key text tokens of every layer, and how far two layers agree on them.

Figure 2 of AdaptInfer (arXiv 2508.06084): text tokens by the attention that they receive from the text (Eq. 1).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from rich.console import Console

from adaptinfer_eval.analysis.asked import Asked
from adaptinfer_eval.analysis.over_samples import Measure, observe_samples, of_received
from adaptinfer_eval.pruning.observer import Received
from adaptinfer_eval.sweep.files import write_text


def key_text_overlap(layers: Sequence[Received]) -> NDArray[Any]:
    """Intersection over union of the key text tokens of two layers, (B, L, L), 1 on the diagonal.

    Key are the 20 % of the text after the image (at least one token) with the largest importance, Eq. 1: what a token
    receives from that text, itself included. Heads are summed; of equal tokens the first counts.
    """
    device = layers[0].text.device
    mask = layers[0].text_mask  # (B, T)
    importance = torch.stack([layer.text.to(device) for layer in layers], 1).masked_fill(~mask[:, None], -torch.inf)
    counts = -(-mask.sum(1) // 5)  # a fifth, rounded up
    order = importance.argsort(stable=True, dim=-1, descending=True)
    first = torch.arange(mask.shape[1], device=device) < counts[:, None]
    key = torch.zeros_like(importance).scatter(2, order, first[:, None].expand(order.shape).float())
    common = key @ key.mT
    return (common / (2 * counts[:, None, None] - common)).double().cpu().numpy()


def measure_key_text(asked: Asked, console: Console) -> dict[str, Any]:
    """Mean overlap over the samples of one task, with what it was measured from, also written to key_text.json.

    SweepError as in `observe_samples`.
    """
    measure = Measure("key text tokens", of_received(key_text_overlap), [key_text_overlap])
    found = observe_samples(asked, measure, console)
    ((task, sums),) = found.sums.items()
    assert sums.total is not None
    overlap = sums.total / sums.measured
    written = {
        "layers": len(overlap),
        "task": task,
        "measured": sums.measured,
        "left_out": sums.left_out,
        "available": found.available[task],
        "overlap": overlap.tolist(),
        **found.sources,
    }
    write_text(Path(asked.config.output) / "key_text.json", json.dumps(written, indent=1) + "\n")
    return written
