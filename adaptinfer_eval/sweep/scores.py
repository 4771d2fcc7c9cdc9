"""From upstream's metrics to the scale of the papers' tables: MME in points, everything else in percent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from adaptinfer_eval.sweep.config import SweepError

MME = ("mme_perception_score", "mme_cognition_score")
MMBENCH = "gpt_eval_score"
EXACT_MATCH = "exact_match"
VIDEO_MME = "videomme_perception_score"
SCALES = {MMBENCH: 1.0, VIDEO_MME: 1.0, EXACT_MATCH: 100.0}
"""Metric → what makes it percent (MMBench's and Video-MME's are percent already)."""


def check_metrics(task: str, metrics: Iterable[str]) -> None:
    """SweepError unless one of the task's metrics has a known scale."""
    metrics = list(metrics)
    if not {*MME, *SCALES} & set(metrics):
        raise SweepError(
            f"task {task} reports {', '.join(metrics)}; known are {', '.join([*MME, *SCALES])}: "
            "add its metric to sweep/scores.py and sweep/units.py"
        )


def check_limit(task: str, metrics: Iterable[str], limit: int | None) -> None:
    """SweepError where a task's first `limit` questions cannot be scored."""
    if limit is not None and limit % 2 and set(MME) & set(metrics):
        raise SweepError(f"limit={limit}: {task} is scored in pairs of questions, use an even limit")


def paper_score(metrics: Mapping[str, float]) -> float:
    """The number that the papers print, from upstream's metrics (`exact_match`: 0.5, …).

    MME is perception + cognition; where a limit leaves out all questions of one, it is the other alone.
    """
    parts = [metrics[name] for name in MME if name in metrics]
    if parts:
        return float(sum(parts))
    name = next(name for name in SCALES if name in metrics)
    return SCALES[name] * metrics[name]
