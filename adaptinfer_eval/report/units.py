"""Scores by unit of a sweep's records; and the unit of what was computed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from adaptinfer_eval.report.headings import Record
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.units import Units


def read_units(folder: Path, records: Sequence[Record]) -> dict[str, Units]:
    """By id, of every record that was measured; SweepError where a file is missing or is not the record's."""
    return {record["id"]: _read(folder, record) for record in records if record["status"] == "done"}


def flops_unit(most: float) -> tuple[str, float]:
    """The unit for numbers of multiply-adds up to `most`, and its size: the papers' TFLOPs, for small models GFLOPs."""
    return ("GFLOPs", 1e9) if 0 < most < 1e11 else ("TFLOPs", 1e12)


def _read(folder: Path, record: Record) -> Units:
    path = folder / record["scores"]
    remedy = f"delete {folder / 'cells' / record['id']}.json and start the sweep again"
    try:
        units = Units.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise SweepError(f"{path} is missing: {remedy}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise SweepError(f"{path} cannot be read ({error!r}): {remedy}") from error
    if not math.isclose(units.score(), record["score"], rel_tol=1e-4, abs_tol=1e-6):
        raise SweepError(f"{path} has the score {units.score():g}, its record {record['score']:g}: {remedy}")
    return units
