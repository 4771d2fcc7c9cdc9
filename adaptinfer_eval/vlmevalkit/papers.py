"""What is asked about a row of VLMEvalKit's data: the papers' prompt where there is one, else VLMEvalKit's own.

The papers' prompts are those of the tasks in lmms-eval, made by the same functions with the same options.
"""

from __future__ import annotations

import ast
import functools
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from adaptinfer_eval.sweep.config import shipped
from adaptinfer_eval.vlmevalkit import DATA

Row = Mapping[str, Any]
_COLUMNS = ("hint", "category", "L2-category", "source", "split", "index", "answer")
"""Read by lmms-eval's prompts whether a data set has them or not; none of them is shown but the hint."""


@dataclass(frozen=True)
class Paper:
    """How a task of ours asks (`doc_to_text` with `options`), and how its answers are generated."""

    doc_to_text: Callable[..., str]
    options: Mapping[str, Any]
    generation: Mapping[str, Any]

    def text(self, row: Row) -> str:
        """The question about a row of VLMEvalKit's data. OCR tokens are in it where the row has any."""
        document = _document(row)
        options = {**self.options, "ocr": "ocr_tokens" in document} if "ocr" in self.options else self.options
        return self.doc_to_text(document, options)


@functools.cache
def paper_of(dataset: str) -> Paper | None:
    """The task of ours that asks about a data set of VLMEvalKit's."""
    from lmms_eval.utils import load_yaml_config

    task = next((task for task, name in DATA.items() if name == dataset), None)
    if task is None:
        return None
    path = shipped(f"tasks/{'mini' if task.startswith('mini_') else 'paper'}/{task}.yaml")
    told = load_yaml_config(yaml_path=str(path))
    options = told.get("lmms_eval_specific_kwargs", {}).get("default", {})
    stops = {"until": [told.get("fewshot_delimiter", "\n\n")]}  # as lmms-eval fills in what a task leaves out
    return Paper(told["doc_to_text"], options, stops | told["generation_kwargs"])


def generation_of(dataset: str | None) -> dict[str, Any]:
    """Arguments of generation: the papers' where there are some; elsewhere up to 1024 tokens, nothing sampled."""
    paper = paper_of(dataset) if dataset else None
    return dict(paper.generation) if paper else {}


def message_of(dataset: Any, row: Any, prompts: str) -> list[dict[str, str]]:
    """VLMEvalKit's message about a row of its `dataset`: pictures and text in order.

    `prompts`: "papers", where there are any for it, or "kit", VLMEvalKit's own.
    """
    paper = paper_of(dataset.dataset_name) if prompts == "papers" else None
    if paper is None:
        message: list[dict[str, str]] = dataset.build_prompt(row)
        return message
    return papers_message(paper, row, dataset.dump_image)


def papers_message(paper: Paper, row: Any, dump_image: Callable[[Any], list[str]]) -> list[dict[str, str]]:
    """The pictures of a row as VLMEvalKit's `dump_image` stores them, then the papers' question."""
    pictures = [{"type": "image", "value": path} for path in dump_image(row)]
    return [*pictures, {"type": "text", "value": paper.text(dict(row))}]


def _document(row: Row) -> dict[str, Any]:
    """A row with the columns that lmms-eval's prompts read."""
    known = {str(key): value for key, value in row.items() if not _missing(value)}
    letters = [letter for letter in string.ascii_uppercase if letter in known]
    document = {**dict.fromkeys(_COLUMNS), **known, "choices": [known[letter] for letter in letters]}
    if isinstance(document.get("ocr_tokens"), str):
        document["ocr_tokens"] = ast.literal_eval(document["ocr_tokens"])
    return document


def _missing(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))
