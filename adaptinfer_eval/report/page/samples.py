"""A cell's answers as lmms-eval scored them, question by question."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.samples import rights_of

Samples = dict[int, Mapping[str, Any]]


def read_samples(folder: Path, record: Mapping[str, Any]) -> Samples:
    """The samples of a measured cell, by document; SweepError where their file is missing or not whole."""
    path = folder / str(record.get("answers"))
    remedy = f"delete {folder / 'cells' / record['id']}.json and start the sweep again, which scores that cell anew"
    if not path.is_file():
        raise SweepError(f"{path} is missing: {remedy}")
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            samples = {sample["doc_id"]: sample for sample in map(json.loads, lines)}
    except (ValueError, KeyError, TypeError) as error:
        raise SweepError(f"{path} cannot be read ({error!r}): {remedy}") from error
    if len(samples) != record["questions"]:
        raise SweepError(f"{path} has {len(samples)} answers, its record {record['questions']}: {remedy}")
    return samples


def read_rights(folder: Path, record: Mapping[str, Any]) -> dict[int, float]:
    """How right each answer of a measured cell is by itself, 0 to 1, by document (`rights_of`)."""
    path = folder / record["scores"]
    found = json.loads(path.read_text(encoding="utf-8"))
    if "rights" not in found:  # an older sweep's; for MMBench this imports lmms-eval
        return rights_of(list(read_samples(folder, record).values()))
    try:
        return {int(doc): float(right) for doc, right in found["rights"]}
    except (TypeError, ValueError) as error:
        remedy = "delete the cell's record and run the sweep again"
        raise SweepError(f"{path} cannot be read ({error!r}): {remedy}") from error
