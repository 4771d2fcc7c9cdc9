"""Which of upstream's metrics is a task's score, and what makes a score of it: found by the task's own metric list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from adaptinfer_eval.sweep.config import SweepError

MME = ("mme_perception_score", "mme_cognition_score")
"""Both are one score: their sum."""
OVERALL = re.compile(r"(^|_)(overall|average|avg|all|total)$")
USUAL = re.compile(r"pope_f1_score|aAcc|.*CIDEr|anls|exact_match")
"""Of several metrics, the one that papers print, where none says that it is of the whole."""


class Metric(NamedTuple):
    """What a task's score is made of."""

    name: str
    higher_is_better: bool = True


def metric_of(task: str, metric_list: Iterable[Mapping[str, Any]], chosen: str = "") -> Metric:
    """The metric that is the score of `task`: its only one, the one of the whole, or what a sweep has `chosen`.

    SweepError where it is not settled.
    """
    listed = {str(metric["metric"]): metric for metric in metric_list}
    if chosen and chosen not in listed:
        raise SweepError(f"metrics: {task} has no metric {chosen!r}, it has {', '.join(listed) or 'none'}")
    scores = [name for name in listed if "submission" not in name]  # those write a file for a server
    if not scores:
        raise SweepError(
            f"task {task} has no score, only answers for a server ({', '.join(listed)}): take its open split"
        )
    if chosen:
        name = chosen
    elif set(MME) & set(scores):
        name = "mme"
    else:
        name = _only(scores) or _only([one for one in scores if OVERALL.search(one)])
        name = name or _only([one for one in scores if USUAL.fullmatch(one)])
    if not name:
        raise SweepError(
            f"task {task} has several metrics ({', '.join(scores)}): say which is its score, as in "
            f"metrics={{{task}: {scores[0]}}}"
        )
    return Metric(name, listed[name].get("higher_is_better") is not False if name in listed else True)


def _only(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ""


def check_limit(task: str, metrics: Iterable[str], limit: int | None) -> None:
    """SweepError where a task's first `limit` questions cannot be scored."""
    if limit is not None and limit % 2 and set(MME) & set(metrics):
        raise SweepError(f"limit={limit}: {task} is scored in pairs of questions, use an even limit")
