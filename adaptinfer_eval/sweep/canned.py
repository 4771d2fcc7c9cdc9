"""Whether answers to a task can be scored here, found out before any is made: answers that no model gave are scored."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import MethodType
from typing import Any

from adaptinfer_eval.models.requests import Request
from adaptinfer_eval.models.tally import Cost
from adaptinfer_eval.sweep.alike import REMEDY, kind_of, reason_of
from adaptinfer_eval.sweep.cells import Cell
from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.files import about_the_folder
from adaptinfer_eval.sweep.journal import Answers
from adaptinfer_eval.sweep.shards import Shard
from adaptinfer_eval.sweep.worker import write_cost

QUESTIONS = 2
"""MME scores questions in pairs."""


def unscorable(
    config: SweepConfig,
    shards: Sequence[Shard],
    asked: Mapping[str, Mapping[int, Request]],
    manager: Any,
    tasks: Mapping[str, Any],
    worked: bool,
) -> dict[str, str]:
    """Why no answer to a task of `shards` can be scored, by task; {} where all is well.

    SweepError where all tasks fail alike, unless scoring has `worked` for others before.
    """
    first = {shard.task: shard.cells[0] for shard in reversed(shards)}
    broken: dict[str, str] = {}
    for name, cell in first.items():
        try:
            score_canned(config, cell, asked[name], manager, tasks[name])
        except Exception as error:
            if about_the_folder(error, Path(config.output)):
                raise
            traceback.print_exc()
            broken[name] = f"its answers cannot be scored here, so none was made: {reason_of(error)}"
    kinds = {kind_of(reason, first[name]) for name, reason in broken.items()}
    if not worked and len(broken) == len(first) and len(kinds) == 1:
        cells = len({cell.id for shard in shards for cell in shard.cells})
        name, reason = next(iter(broken.items()))
        raise SweepError(f"all {len(first)} tasks, {cells} cells, fail alike ({name}: {reason}). {REMEDY}")
    return broken


def score_canned(config: SweepConfig, cell: Cell, docs: Iterable[int], manager: Any, task: Any) -> float:
    """The score of the right answers (which need no judge) to the first of `docs`, the way that a cell's answers go.

    `docs`: the documents that the task asks about, at least one. Nothing stays in the sweep's folder. What is raised on
    the way comes out.
    """
    from adaptinfer_eval.sweep.score import score

    asked = list(islice(docs, QUESTIONS))
    folder = Path(config.output, "lmms_eval", "canned")
    try:
        with _tried_once(task):
            return score(config, cell, _answers(asked, task), folder, manager, task, limit=len(asked)).score
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answers(docs: Iterable[int], task: Any) -> Answers:
    cost = write_cost(Cost("none", entering=(1,), images=1, vision_tokens=1, text_tokens=1, flops=1.0, seconds=0.0))
    return {doc: {"doc": doc, "text": _right_answer(task, doc), **cost} for doc in docs}


def _right_answer(task: Any, doc: int) -> str:
    target = task.doc_to_target(task.eval_docs_no_media[doc])
    return str(target[0] if isinstance(target, list | tuple) and target else target)


@contextmanager
def _tried_once(task: Any) -> Iterator[None]:
    """Upstream scores a document up to five times, two seconds apart, and hides the error in one of its own."""
    retried = getattr(type(task).process_results, "retry_with", None)
    if retried is None:
        yield
        return
    task.process_results = MethodType(retried(stop=lambda _: True, reraise=True), task)
    try:
        yield
    finally:
        del task.process_results
