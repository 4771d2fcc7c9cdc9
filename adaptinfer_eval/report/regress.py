"""Holds a sweep to a baseline: its scores may not fall below what they were by more than a tolerance.

The tolerance of a cell is two standard errors of its score over its units (see sweep/units.py), each mean counted with
one more unit all right and one all wrong, so that a cell where all answers are alike has an error too (Agresti and
Coull, The American Statistician 52, 1998). For right-or-wrong units that is the binomial error. The questions are the
same and decoding is greedy, so on one machine nothing differs; on another, or with other releases of torch, rounding
decides close answers otherwise. Which ones is chance, and what that moves stays well within the error of a score that
rests on so few questions; a drop beyond it is the code's doing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from tabulate import tabulate

from adaptinfer_eval.report.units import read_units
from adaptinfer_eval.sweep.cells import Cell, settings
from adaptinfer_eval.sweep.config import SweepError, load_config, nearest, shipped
from adaptinfer_eval.sweep.files import write_text
from adaptinfer_eval.sweep.records import Record, read_records
from adaptinfer_eval.sweep.units import Units

FOLDER = Path("results/baselines")
CONDITIONS = ("checkpoint", "data", "questions", "schedule", "seed", "dtype", "model_args")
"""What a score can only be compared under, of a record and of a baseline's cell."""
STANDARD_ERRORS = 2


class Expected(BaseModel):
    """A cell as it was: its score with the tolerance, both on the papers' scale, and `CONDITIONS`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    score: float
    tolerance: float
    checkpoint: str
    data: str
    questions: int
    schedule: str
    seed: int
    dtype: str
    model_args: dict[str, Any]


class Baseline(BaseModel):
    """Cells by id; the content of a baseline's file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    baseline: Literal[1] = 1
    cells: dict[str, Expected]


@dataclass(frozen=True)
class Difference:
    """A cell against its baseline. `failed`: the sweep does not hold the baseline here, `verdict` says why."""

    cell: str
    baseline: float | None
    now: float | None
    tolerance: float | None
    verdict: str
    failed: bool = False


def read_baseline(source: str) -> Baseline:
    """`source`: a path, or a name in results/baselines of the working directory or else of those shipped.

    SweepError where there is none, and where it is damaged.
    """
    path = _path(source)
    if not path.is_file():
        folder = shipped(str(FOLDER))
        known = {found.stem: found for found in sorted(folder.glob("*.json"))} if folder else {}
        if source not in known:
            raise SweepError(f"no baseline {source!r}{nearest(source, known)}; --update makes one of a sweep")
        path = known[source]
    try:
        return Baseline.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON, of UTF-8 or of what is in it
        raise SweepError(f"{path} is not a baseline ({error}): make it again with --update") from error


def write_baseline(source: str, folder: Path) -> Path:
    """Make a baseline of the sweep in `folder`; cells that the model cannot run are not in it. Returns where it is.

    SweepError where a cell of the sweep has failed or is not measured yet.
    """
    records = read_records(folder)
    config = load_config(str(folder / "config.yaml"))
    ids = {Cell(config.backbone, setting, task).id for setting in settings(config) for task in config.tasks}
    missing = ids - {record["id"] for record in records if record["status"] != "failed"}
    if missing:
        raise SweepError(f"{folder} lacks cells ({', '.join(sorted(missing))}): finish the sweep first")
    units = read_units(folder, records)
    made = Baseline(
        cells={
            record["id"]: Expected(
                score=record["score"],
                tolerance=round(tolerance(units[record["id"]]), 4),
                **{key: record[key] for key in CONDITIONS},
            )
            for record in records
            if record["status"] == "done"
        }
    )
    path = _path(source)
    write_text(path, json.dumps(made.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n")
    return path


def tolerance(units: Units) -> float:
    """What a score may fall by, on the papers' scale: two standard errors; categories are summed, so their errors are
    added as independent."""
    if units.combine == "whole":
        return 0.0  # nothing is known of how sure it is
    most = 1.0 if units.combine == "mean" else 2.0  # an MME image has one for its answers and one for both being right
    variance = 0.0
    for stratum in units.strata():
        values = units.values[stratum]
        if units.weights is not None:  # of a ratio, how far each unit pulls it up or down
            weights = units.weights[stratum]
            values = (values - units.term(stratum) * weights) / max(float(weights.mean()), 1e-12)
        values = np.append(values, [0.0, most])
        variance += float(values.var()) / len(stratum)
    return STANDARD_ERRORS * units.factor * sqrt(variance)


def differences(baseline: Baseline, records: Sequence[Record]) -> list[Difference]:
    """Every cell of the baseline, and after them the sweep's own; failed ones first."""
    found = {record["id"]: record for record in records}
    compared = [_compare(name, expected, found.get(name)) for name, expected in baseline.cells.items()]
    new = [
        Difference(name, None, record["score"], None, "not in the baseline")
        for name, record in found.items()
        if name not in baseline.cells and record["status"] == "done"
    ]
    return sorted([*compared, *new], key=lambda difference: not difference.failed)


def _compare(name: str, expected: Expected, record: Record | None) -> Difference:
    if record is None or record["status"] != "done":
        verdict = "missing" if record is None else f"{record['status']}: {record['reason']}"
        return Difference(name, expected.score, None, expected.tolerance, verdict, failed=True)
    other = [key for key in CONDITIONS if record[key] != getattr(expected, key)]
    change = record["score"] - expected.score
    if other:
        verdict = f"baseline does not apply: other {', '.join(other)}"
    elif abs(change) <= expected.tolerance:
        verdict = "within tolerance" if change else "same"
    else:
        verdict = "DROP" if (change < 0) == record.get("higher_is_better", True) else "better"
    return Difference(
        name, expected.score, record["score"], expected.tolerance, verdict, failed=bool(other) or verdict == "DROP"
    )


def difference_table(compared: Sequence[Difference]) -> str:
    """A table of all that is not the same, and what it comes to."""
    rows = [
        (d.cell, _number(d.baseline), _number(d.now), _change(d), _number(d.tolerance), d.verdict)
        for d in compared
        if d.verdict != "same"
    ]
    headers = ("cell", "baseline", "now", "difference", "tolerance", "verdict")
    align = ("left", "right", "right", "right", "right", "left")
    table = tabulate(
        rows, headers, "github", colalign=align, disable_numparse=True, maxcolwidths=[None, None, None, None, None, 60]
    )
    same = sum(d.verdict == "same" for d in compared)
    failed = sum(d.failed for d in compared)
    lines = [table, ""] if rows else []
    lines.append(f"{len(compared)} cells: {same} the same, {len(compared) - same - failed} differ, {failed} failed.")
    if any("does not apply" in d.verdict for d in compared):
        lines.append(
            "The baseline does not apply where another checkpoint, other data or another setting was measured: "
            "measure what the baseline did, or make a new one with --update."
        )
    return "\n".join(lines)


def _path(source: str) -> Path:
    return Path(source) if source.endswith(".json") else FOLDER / f"{source}.json"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _change(difference: Difference) -> str:
    if difference.now is None or difference.baseline is None:
        return "–"
    return f"{difference.now - difference.baseline:+.1f}"
