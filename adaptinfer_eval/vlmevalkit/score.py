"""From a cell's answers to its scores by VLMEvalKit's own evaluation, no model needed."""

from __future__ import annotations

import ast
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptinfer_eval.sweep.cells import Cell
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.files import file_name, write_text
from adaptinfer_eval.sweep.journal import Answers
from adaptinfer_eval.sweep.score import Scored
from adaptinfer_eval.sweep.units import Combine, Units
from adaptinfer_eval.vlmevalkit.papers import paper_of
from adaptinfer_eval.vlmevalkit.run import EXACT
from adaptinfer_eval.vlmevalkit.tasks import KitTask


def score(cell: Cell, answers: Answers, folder: Path, task: KitTask) -> Scored:
    """VLMEvalKit's scoring of `answers`, by exact matching; its files go to `folder`, which is made anew."""
    from vlmeval.smp import dump

    shutil.rmtree(folder, ignore_errors=True)  # VLMEvalKit takes what it finds there for its own
    folder.mkdir(parents=True)
    docs = sorted(answers)
    frame = task.kit.data.iloc[docs].drop(columns="image", errors="ignore")
    frame = frame.assign(prediction=[answers[doc]["text"] for doc in docs])
    file = folder / f"{file_name(cell.id)}.xlsx"
    dump(frame, str(file))
    metrics = _flat(task.kit.evaluate(str(file), model=EXACT, nproc=1))
    if not metrics:
        raise RuntimeError(f"VLMEvalKit gave no score for {task.kit.dataset_name}")
    places = {index: doc for index, doc in zip(task.kit.data.iloc[docs]["index"], docs, strict=True)}
    units, rights = _units(task, file, places)
    _check(task, metrics, units.score())
    samples = folder / f"samples_{file_name(cell.task)}.jsonl"
    lines = (json.dumps(_sample(task, doc, answers[doc]["text"]), ensure_ascii=False, default=str) for doc in docs)
    write_text(samples, "\n".join(lines) + "\n")
    return Scored(units.score(), metrics, {**units.to_json(), "rights": sorted(rights.items())}, samples)


def _units(task: KitTask, file: Path, places: Mapping[Any, int]) -> tuple[Units, dict[int, float]]:
    """Scores by unit, and how right each answer is by itself, by document; from the files that scoring wrote."""
    kind = "_auxmatch" if task.pairs else f"_{EXACT}_result" if task.kit.TYPE == "MCQ" else "_results"
    found = _read(file, kind)
    docs = [places[index] for index in found["index"]]
    if task.pairs:
        rights = dict(zip(docs, map(float, found["score"]), strict=True))
        asked = zip(found["category"], found["image_path"], rights.values(), strict=True)
        return _made("sum of category means", _pairs(asked)), rights
    values = list(map(float, found["hit"])) if task.kit.TYPE == "MCQ" else _hits(task, found)
    rights = dict(zip(docs, values, strict=True))
    category = "l2-category" if task.circular and "l2-category" in found else None
    categories = found[category] if category else [""] * len(found)
    ids = found["index"] if task.circular else docs
    rows = sorted(zip(docs, map(str, ids), map(str, categories), values, strict=True))
    return _made("mean", [row[1:] for row in rows]), rights


def _made(combine: Combine, rows: Sequence[tuple[str, str, float]]) -> Units:
    ids, categories, values = zip(*rows, strict=True)
    return Units(combine, 100.0, ids, categories, np.array(values, dtype=np.float64))


def _pairs(asked: Iterable[tuple[Any, Any, float]]) -> list[tuple[str, str, float]]:
    """MME: of each picture the share of right answers, plus one where both are right."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for category, picture, right in asked:
        pairs.setdefault((str(category), str(picture)), []).append(right)
    return [(f"{kind}/{name}", kind, sum(two) / 2 + (sum(two) == 2)) for (kind, name), two in pairs.items()]


def _hits(task: KitTask, found: Any) -> list[float]:
    """Of open questions, by VLMEvalKit's rule for the data set."""
    from vlmeval.dataset.utils.vqa_eval import hit_calculate

    matches = [{"match": ast.literal_eval(str(match))} for match in found["eval_match"]]
    return list(map(float, hit_calculate(matches, task.kit.dataset_name)))


def _check(task: KitTask, metrics: Mapping[str, float], own: float) -> None:
    """RuntimeError where VLMEvalKit's score is not that of its answers, one by one."""
    if task.pairs:
        theirs: float | None = metrics["perception"] + metrics["reasoning"]
    else:
        theirs = metrics.get("Overall")
        theirs = theirs * 100 if theirs is not None and task.kit.TYPE == "MCQ" else theirs
    if theirs is not None and not math.isclose(theirs, own, rel_tol=1e-4, abs_tol=1e-6):
        raise RuntimeError(f"VLMEvalKit's score of {task.kit.dataset_name} is {theirs:g}, its answers make {own:g}")


def _read(file: Path, kind: str) -> Any:
    from vlmeval.smp import load

    path = file.with_name(f"{file.stem}{kind}{file.suffix}")
    if not path.is_file():
        raise SweepError(f"VLMEvalKit did not write {path}")
    return load(str(path))


def _flat(found: Any) -> dict[str, float]:
    """Numbers by name; of several splits, by split and name."""
    if hasattr(found, "to_dict"):
        rows = found.to_dict("records")
        several = {str(row.get("split", number)): row for number, row in enumerate(rows)}
        found = rows[0] if len(rows) == 1 else several
    flat: dict[str, float] = {}
    for name, value in (found or {}).items():
        if isinstance(value, Mapping):
            flat |= {f"{name} {inner}": number for inner, number in _flat(value).items()}
        elif isinstance(value, int | float | np.number) and math.isfinite(value):
            flat[str(name)] = float(value)
    return flat


def _sample(task: KitTask, doc: int, text: str) -> dict[str, Any]:
    """An answer in the form of lmms-eval's samples; `asks` and `id` tell which question of lmms-eval's it is."""
    document = task.eval_docs[doc]
    paper = paper_of(task.kit.dataset_name)
    known: list[Any] = [document["index"]] if task.circular else []
    if task.pairs:
        known = [document["category"], Path(document["image_path"]).stem]
    return {
        "doc_id": doc,
        "id": known,
        "asks": paper.text(document) if paper else task.doc_to_text(document),
        "input": task.doc_to_text(document),
        "target": task.doc_to_target(document),
        "filtered_resps": text,
        "type": task.kit.TYPE,
    }
