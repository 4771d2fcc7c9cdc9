"""From the layers where attention shifts to schedules of AdaptInfer, and to a sweep that measures them. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from adaptinfer_eval.analysis.proposal import propose_layers
from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.method import get_method
from adaptinfer_eval.sweep.config import Scalar, SweepConfig

METHOD = "adaptinfer"


@dataclass(frozen=True)
class Proposal:
    """Where to prune, and how many vision tokens go on there."""

    layers: list[int]
    schedules: dict[str, str]
    """Budget → schedule, `1:133,10:27,20:3`: tokens of one image, counted leaving as the paper does."""
    unreachable: dict[str, str]
    """Budget → why no schedule at these layers meets it, and one that does."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def propose(histograms: Mapping[str, Sequence[float]], budgets: Sequence[float], vision_tokens: int) -> Proposal | None:
    """Layers from the distributions of all tasks together, and for each budget what AdaptInfer keeps after them.

    `histograms`: task → (L,) shifts at each layer; `vision_tokens`: of an image. None where the distribution has no
    shape to read layers from (`propose_layers`).
    """
    together = mean_distribution(histograms)
    layers = propose_layers(together)
    if not layers:
        return None
    schedules, unreachable = {}, {}
    for budget in budgets:
        try:
            schedule = _method(layers, budget).resolved(len(together), vision_tokens)
        except ValueError as error:
            unreachable[f"{budget:g}"] = str(error)
        else:
            schedules[f"{budget:g}"] = str(schedule)
    return Proposal(layers, schedules, unreachable)


def mean_distribution(histograms: Mapping[str, Sequence[float]]) -> NDArray[np.float64]:
    """Share of shifts at each layer, (L,), every task counting alike; tasks without a shift are left out."""
    shares = [np.asarray(counts, dtype=float) / np.sum(counts) for counts in histograms.values() if np.sum(counts)]
    return np.mean(shares, axis=0) if shares else np.zeros(max(map(len, histograms.values()), default=0))


def own_layers(num_layers: int) -> list[int]:
    """Where AdaptInfer prunes a model of so many layers by itself."""
    return _method(None, 64).stage_layers(num_layers)


def _method(layers: Sequence[int] | None, budget: float) -> LayerMethod:
    method = get_method(METHOD)(budget=budget, layers=",".join(map(str, layers)) if layers else None)
    assert isinstance(method, LayerMethod)
    return method


def sweep_yaml(
    proposal: Proposal,
    *,
    pretrained: str,
    backbone: str,
    num_layers: int,
    tasks: Sequence[str],
    found: str,
    model_args: Mapping[str, Scalar] | None = None,
    batch_size: int = 1,
    dtype: str = "auto",
) -> str:
    """A configuration that `adaptinfer-eval run` takes as it is: vanilla, AdaptInfer as it is, and at these layers.

    `found`: one line on what the layers were found in. Budgets that cannot be reached stand in a comment. ValueError
    where none can be.
    """
    if not proposal.schedules:
        raise ValueError("; ".join(proposal.unreachable.values()) or "no budget was asked for")
    here = ",".join(map(str, proposal.layers))
    budgets = [float(budget) for budget in proposal.schedules]
    values = {
        "pretrained": pretrained,
        "backbone": backbone,
        **({"model_args": dict(model_args)} if model_args else {}),
        "methods": [
            "vanilla",
            *([METHOD] if own_layers(num_layers) != proposal.layers else []),
            {"name": METHOD, "layers": here},
        ],
        "budgets": [int(budget) if budget.is_integer() else budget for budget in budgets],
        "tasks": list(tasks),
        "batch_size": batch_size,
        "dtype": dtype,
    }
    SweepConfig.model_validate(values | {"name": "proposed"})
    comments = [f"AdaptInfer where attention shifts: {found}"]
    comments += [f"At {budget}: {schedule}" for budget, schedule in proposal.schedules.items()]
    comments += [f"Not at {budget}: {reason}" for budget, reason in proposal.unreachable.items()]
    lines = [f"# {' '.join(comment.split())}" for comment in comments]
    return "\n".join([*lines, yaml.safe_dump(values, sort_keys=False, allow_unicode=True)])
