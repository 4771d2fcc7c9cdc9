"""Metrics that are computed over whole groups of questions: half a group is refused before it is answered.

lmms-eval would answer everything and stop in the scoring, with nothing to show.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from types import MethodType
from typing import Any

from loguru import logger

from adaptinfer_eval.models.requests import Request

Key = Callable[[Mapping[str, Any]], Hashable]


def _pair(document: Mapping[str, Any]) -> Hashable:
    return document["category"], document["question_id"]


def _all(document: Mapping[str, Any]) -> Hashable:
    return "all"


GROUPS: dict[str, Key] = {
    "mme_perception_score": _pair,
    "mme_cognition_score": _pair,
    **dict.fromkeys(("naturalbench_G_ACC", "naturalbench_Q_ACC", "naturalbench_I_ACC", "naturalbench_ACC"), _all),
    **dict.fromkeys(("requery_score", "rek_score"), _all),  # MMSearch
}
"""Metric of lmms-eval → the group that a document belongs to."""


def check_groups(requests: Iterable[Request], processes: int) -> None:
    """ValueError where a task's questions are some, not all, of a group that its metric is computed over.

    What a task asks is known by the task itself, whose method each of its requests holds; other requests pass. One of
    several `processes` knows its own share only: there a limit is warned of.
    """
    methods = (request.arguments[0] for request in requests)
    tasks: dict[int, Any] = {id(m.__self__): m.__self__ for m in methods if isinstance(m, MethodType)}
    for task in tasks.values():
        metrics = [metric["metric"] for metric in getattr(task.config, "metric_list", None) or []]
        key = next((GROUPS[metric] for metric in metrics if metric in GROUPS), None)
        if key is None:
            continue
        about = f"task {task.config.task} is scored over whole groups of questions"
        asked = {instance.doc_id for instance in task.instances}
        if processes > 1:
            if max(asked) + processes < len(task.eval_docs):
                logger.warning(f"{about}: if --limit leaves one in part, there will be no score")
            continue
        groups = [key(document) for document in task.eval_docs_no_media]
        begun = {groups[doc] for doc in asked}
        left = next((doc for doc, group in enumerate(groups) if group in begun and doc not in asked), None)
        if left is not None:
            raise ValueError(
                f"{about}, and document {left} of one would be left out: use another --limit (for pairs, an even one)"
            )
