"""A cell's answers as lmms-eval scored them, question by question."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.scores import EXACT_MATCH, MMBENCH, MME
from adaptinfer_eval.sweep.units import MMBENCH_COPY, units_of

Sample = Mapping[str, Any]
Samples = dict[int, Sample]


def read_samples(folder: Path, record: Mapping[str, Any]) -> Samples:
    """The samples of a measured cell, by document; SweepError where their file is missing."""
    path = folder / record["answers"]
    if not path.is_file():
        raise SweepError(
            f"{path} is missing: delete {folder / 'cells' / record['id']}.json and start the sweep again, which scores "
            "that cell anew"
        )
    with path.open(encoding="utf-8", newline="\n") as lines:
        return {sample["doc_id"]: sample for sample in map(json.loads, lines)}


def rights(samples: Samples) -> dict[int, float]:
    """How right each answer is by itself, 0 to 1, by document; of MMBench's circular copies only the original."""
    first = next(iter(samples.values()), {})
    if MMBENCH in first:
        originals = {doc: sample for doc, sample in samples.items() if sample[MMBENCH]["index"] < MMBENCH_COPY}
        units = units_of(list(originals.values()))
        return dict(zip(sorted(originals), units.values.tolist(), strict=True))
    if EXACT_MATCH in first:
        return {doc: float(sample[EXACT_MATCH]) for doc, sample in samples.items()}
    scored = {doc: next(sample[name] for name in MME if name in sample) for doc, sample in samples.items()}
    return {doc: float(answer["score"]) for doc, answer in scored.items()}
