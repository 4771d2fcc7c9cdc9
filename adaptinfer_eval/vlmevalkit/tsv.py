"""The mini tasks as files in VLMEvalKit's format, made from the same parquet files: same questions, same pixels."""

from __future__ import annotations

import base64
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptinfer_eval.sweep.config import SweepError, shipped
from adaptinfer_eval.vlmevalkit import DATA

Row = dict[str, Any]


def write_tsv(folder: Path) -> list[Path]:
    """A file for each of the mini tasks in `folder`, VLMEvalKit's data folder (LMUData); the same bytes each time.

    Multiple choice (MMBench with its circular copies), yes/no in pairs, and open questions. `ocr_tokens` is a column
    that VLMEvalKit does not know; the papers' prompt for TextVQA reads it.
    """
    import pandas as pd

    from adaptinfer_eval.sweep.files import write_text

    written = []
    for task, name in DATA.items():
        if not task.startswith("mini_"):
            continue
        source = shipped(f"tasks/mini/data/{task.removeprefix('mini_')}.parquet")
        if source is None:
            raise SweepError(f"the data of {task} are not installed: reinstall adaptinfer-eval")
        found: list[Any] = pd.read_parquet(source).to_dict("records")
        rows = [_row(task, number, document) for number, document in enumerate(found)]
        path = folder / f"{name}.tsv"
        write_text(path, pd.DataFrame(rows).to_csv(sep="\t", index=False))
        written.append(path)
    return written


def _row(task: str, number: int, document: Mapping[str, Any]) -> Row:
    """The columns that VLMEvalKit knows; `index` is the number of the question, for MMBench its own."""
    picture = base64.b64encode(document["image"]["bytes"]).decode()
    row = {"index": number, "image": picture, "question": document["question"]}
    if task == "mini_mme":
        shown = {"answer": document["answer"], "category": document["category"]}
        return row | shown | {"image_path": document["question_id"]}
    if task == "mini_mmbench":
        names = ("A", "B", "C", "D", "answer", "category", "source", "split")
        hint = {} if document["hint"] == "nan" else {"hint": document["hint"]}
        own = {"index": int(document["index"]), "l2-category": document["L2-category"], **hint}
        return row | {name: document[name] for name in names} | own
    if task == "mini_scienceqa":
        letters = dict(zip(string.ascii_uppercase, document["choices"], strict=False))
        right = string.ascii_uppercase[int(document["answer"])]
        return row | letters | {"answer": right, "hint": document["hint"], "category": document["topic"]}
    if task == "mini_textvqa":
        answers, tokens = list(document["answers"]), list(document["ocr_tokens"])
        return row | {"answer": repr(answers), "ocr_tokens": repr(tokens)}
    return row | {"answer": document["answer"], "category": document["types"]}
