"""A cell's record: what was asked, what came out, and what it was made with. One JSON file per cell.

The schema is described in results/README.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptinfer_eval.sweep.cells import Cell
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.files import write_text
from adaptinfer_eval.sweep.identity import SCHEMA_VERSION

Record = dict[str, Any]
SHOWN = ("method", "options", "budget", "count", "task", "seed", "repeat", "reason")
MEASURED = ("score", "scores", "audit", "questions", "questions_available", "data")
"""Keys that no table can do without; the second, those of measured cells."""
REMEDY = "move it out of that folder, and what has to be there is made anew by the next start"


def record_path(output: Path, cell_id: str) -> Path:
    return output / "cells" / f"{cell_id}.json"


def read_cells(output: Path) -> dict[str, Record]:
    """The cell records that are in `output` so far, by id; SweepError where a file is none."""
    return {path.stem: _read(path) for path in sorted((output / "cells").glob("*.json"))}


def read_records(folder: Path) -> list[Record]:
    """All cell records of a sweep's folder; SweepError where there are none, or one is not whole."""
    records = read_all(folder / "cells", SCHEMA_VERSION)
    if not records:
        raise SweepError(f"no cell records in {folder / 'cells'}: run a sweep with output={folder} first")
    for record in records:
        needed = (*SHOWN, *MEASURED) if record["status"] == "done" else SHOWN
        if lacking := [key for key in needed if key not in record]:
            raise SweepError(f"{record_path(folder, record['id'])} lacks {', '.join(lacking)}: {REMEDY}")
    return records


def read_all(folder: Path, schema_version: int) -> list[Record]:
    """The records of a folder, by name; SweepError where one has another schema, or a file is no record."""
    paths = sorted(folder.glob("*.json"))
    records = [_read(path) for path in paths]
    for path, record in zip(paths, records, strict=True):
        if record.get("schema_version") != schema_version:
            raise SweepError(
                f"{path} has schema version {record.get('schema_version')}, not {schema_version}: run it again"
            )
    return records


def _read(path: Path) -> Record:
    """A record, which has at least `id` and `status`; SweepError where the file holds something else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise SweepError(f"{path} is damaged ({error}): {REMEDY}") from error
    if not isinstance(record, dict) or "status" not in record or record.get("id") != path.stem:
        raise SweepError(f"{path} is not the record that its name says: {REMEDY}")
    return record


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def write_record(output: Path, cell: Cell, record: Mapping[str, Any]) -> None:
    write_json(record_path(output, cell.id), record)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """ValueError where a number is not finite."""
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
