"""A cell's record: what was asked, what came out, and what it was made with. One JSON file per cell.

The schema is described in results/README.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from adaptinfer_eval.sweep.cells import Cell
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.identity import SAME_IN_A_SWEEP, SCHEMA_VERSION, changes, compare

Record = dict[str, Any]


def record_path(output: Path, cell: Cell) -> Path:
    return output / "cells" / f"{cell.id}.json"


def is_finished(output: Path, cell: Cell, wanted: Record) -> bool:
    """Whether `output` holds this very cell's result, or that the model cannot run it; a failed one is tried again.

    SweepError where it holds the result of something else under the same name.
    """
    path = record_path(output, cell)
    if not path.exists():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["status"] == "done":
        compare(path, found, wanted, wanted)
        return True
    return found["status"] == "cannot run" and not changes(found, wanted, wanted)


def check_folder(output: Path, wanted: Record, count: str) -> None:
    """SweepError where `output` holds another sweep's results, of whatever cell: tables compare across cells.

    `wanted`: any cell's; `count`: how this sweep's budgets are counted.
    """
    for path in sorted((output / "cells").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["status"] == "done":
            compare(path, found, wanted, SAME_IN_A_SWEEP)
            if found["count"] is not None:
                compare(path, found, {"count": count}, ["count"])


def forget_failures(output: Path, wanted: Collection[str]) -> None:
    """Delete the records of cells that came to nothing and that nobody asks for any more."""
    for path in (output / "cells").glob("*.json"):
        if path.stem not in wanted and json.loads(path.read_text(encoding="utf-8"))["status"] != "done":
            path.unlink()


def read_records(folder: Path) -> list[Record]:
    """All cell records of a sweep's folder; SweepError where there are none or one has another schema."""
    records = read_all(folder / "cells", SCHEMA_VERSION)
    if not records:
        raise SweepError(f"no cell records in {folder / 'cells'}: run a sweep with output={folder} first")
    return records


def read_all(folder: Path, schema_version: int) -> list[Record]:
    """The JSON files of a folder, by name; SweepError where one has another schema."""
    paths = sorted(folder.glob("*.json"))
    records: list[Record] = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for path, record in zip(paths, records, strict=True):
        if record.get("schema_version") != schema_version:
            raise SweepError(
                f"{path} has schema version {record.get('schema_version')}, not {schema_version}: run it again"
            )
    return records


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: a reader, or a crash, never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_record(output: Path, cell: Cell, record: Mapping[str, Any]) -> None:
    write_json(record_path(output, cell), record)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
