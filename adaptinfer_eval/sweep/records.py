"""A cell's record: what was asked, what came out, and what it was made with. One JSON file per cell.

The schema is described in results/README.md.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adaptinfer_eval.sweep.cells import Cell
from adaptinfer_eval.sweep.config import SweepConfig, SweepError

SCHEMA_VERSION = 1
SAME_IN_A_SWEEP = (
    "schema_version",
    "backbone",
    "limit",
    "seed",
    "dtype",
    "pretrained",
    "model_args",
    "checkpoint",
    "versions",
)
Record = dict[str, Any]


def identity(config: SweepConfig, cell: Cell, schedule: str, checkpoint: str, data: str) -> Record:
    """All that decides a cell's answers: two records with the same identity are the same measurement.

    `checkpoint` and `data` are fingerprints. What must not change answers (batch size, workers) is not in it.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "backbone": cell.backbone,
        "method": cell.setting.entry.name,
        "options": cell.setting.entry.options,
        "budget": cell.setting.budget,
        "count": cell.setting.count,
        "schedule": schedule,
        "task": cell.task,
        "limit": config.limit,
        "seed": config.seed,
        "dtype": config.dtype,
        "pretrained": config.pretrained,
        "model_args": config.model_args,
        "checkpoint": checkpoint,
        "data": data,
        "versions": {name: version(name) for name in ("adaptinfer-eval", "transformers", "torch", "lmms-eval")},
    }


def digest(value: Any) -> str:
    """SHA-256 of anything JSON can hold, the same on every machine and in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def checkpoint_digest(checkpoint: str, revision: object = None) -> str:
    """SHA-256 over a local checkpoint's files; for a hub id, the id and its revision."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return f"{checkpoint}@{revision or 'main'}"
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        total.update(path.name.encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def record_path(output: Path, cell: Cell) -> Path:
    return output / "cells" / f"{cell.id}.json"


def is_finished(output: Path, cell: Cell, wanted: Record) -> bool:
    """Whether `output` holds this very cell's result; a failed one is tried again.

    SweepError where it holds the result of something else under the same name.
    """
    path = record_path(output, cell)
    if not path.exists():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["status"] != "done":
        return False
    _compare(path, found, wanted, wanted)
    return True


def check_folder(output: Path, wanted: Record) -> None:
    """SweepError where `output` holds another sweep's results, of whatever cell: tables compare across cells."""
    for path in sorted((output / "cells").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["status"] == "done":
            _compare(path, found, wanted, SAME_IN_A_SWEEP)


def _compare(path: Path, found: Record, wanted: Record, keys: Iterable[str]) -> None:
    wanted = json.loads(json.dumps(wanted))
    changed = [key for key in keys if found.get(key) != wanted[key]]
    if changed:
        differences = ", ".join(f"{key} was {found.get(key)!r}, is {wanted[key]!r}" for key in changed)
        raise SweepError(
            f"{path} was measured with something else ({differences}): "
            "give another folder (output=...), or delete that one to measure again"
        )


def read_records(folder: Path) -> list[Record]:
    """All cell records of a sweep's folder; SweepError where there are none or one has another schema."""
    paths = sorted((folder / "cells").glob("*.json"))
    if not paths:
        raise SweepError(f"no cell records in {folder / 'cells'}: run a sweep with output={folder} first")
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for path, record in zip(paths, records, strict=True):
        if record.get("schema_version") != SCHEMA_VERSION:
            raise SweepError(
                f"{path} has schema version {record.get('schema_version')}, not {SCHEMA_VERSION}: run it again"
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
    write_text(record_path(output, cell), json.dumps(record, indent=2, ensure_ascii=False) + "\n")
