"""Pictures and right answers of a sweep's questions, from the data sets."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.identity import data_digest
from adaptinfer_eval.sweep.logs import logged_to
from adaptinfer_eval.sweep.tasks import load_tasks, questions


class Document(NamedTuple):
    """What a data set has for a question; no picture where there is not exactly one."""

    picture: Image.Image | None
    target: str


def read_documents(config: SweepConfig, record: Mapping[str, Any], docs: Sequence[int]) -> dict[int, Document]:
    """Of one task, by document; `record`: of any of its cells.

    Raises whatever the loader of the data set raises; SweepError where the data are not those that were measured.
    """
    name = record["task"]
    with logged_to(Path(os.devnull)):
        _, tasks = load_tasks(config.model_copy(update={"tasks": (name,)}))
        task = tasks[name]
        if data_digest(task, questions(name, task, config.limit)) != record["data"]:
            raise SweepError("they are not the data that were measured")
        return {doc: _document(task, task.eval_docs[doc]) for doc in docs}


def _document(task: Any, document: Mapping[str, Any]) -> Document:
    pictures = task.doc_to_visual(document)
    answers = document.get("answers")  # TextVQA: of ten people; its doc_to_target names a column that is not there
    target = Counter(answers).most_common(1)[0][0] if isinstance(answers, list) else task.doc_to_target(document)
    return Document(pictures[0] if len(pictures) == 1 else None, str(target))
