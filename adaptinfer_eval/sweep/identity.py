"""What decides a cell's answers, and its fingerprints. Two records with the same identity are the same measurement."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptinfer_eval.method import get_method
from adaptinfer_eval.sweep.cells import Cell
from adaptinfer_eval.sweep.config import PACKAGE, SweepConfig, SweepError

if TYPE_CHECKING:  # light: records are read without lmms-eval
    from adaptinfer_eval.models.requests import Request

SCHEMA_VERSION = 2
SAME_IN_A_SWEEP = (
    "schema_version",
    "backbone",
    "limit",
    "dtype",
    "pretrained",
    "model_args",
    "checkpoint",
    "versions",
)
"""Tables compare across cells, so these are the same in a whole folder."""


def identity(config: SweepConfig, cell: Cell, schedule: str, checkpoint: str, data: str) -> dict[str, Any]:
    """All that decides a cell's answers. What must not change them (batch size, workers, sharing) is not in it.

    `schedule`: what the method does for this model. `checkpoint` and `data` are fingerprints.
    """
    setting = cell.setting
    return {
        "schema_version": SCHEMA_VERSION,
        "backbone": cell.backbone,
        "method": setting.entry.name,
        "options": setting.entry.options,
        "budget": setting.budget,
        "count": setting.count,
        "schedule": schedule,
        "task": cell.task,
        "limit": config.limit,
        "seed": config.seed_of(setting.seed),
        "repeat": setting.repeat,
        "dtype": config.dtype,
        "pretrained": config.pretrained,
        "model_args": config.model_args,
        "checkpoint": checkpoint,
        "data": data,
        "code": code_digest(setting.entry.name),
        "versions": {name: version(name) for name in ("adaptinfer-eval", "transformers", "torch", "lmms-eval")},
    }


def compare(where: object, found: Mapping[str, Any], wanted: Mapping[str, Any], keys: Iterable[str]) -> None:
    """SweepError, naming the keys, where what was measured is not what is asked for now."""
    wanted = json.loads(json.dumps(wanted))
    changed = [key for key in keys if found.get(key) != wanted[key]]
    if changed:
        differences = ", ".join(f"{key} was {found.get(key)!r:.60}, is {wanted[key]!r:.60}" for key in changed)
        raise SweepError(
            f"{where} was measured with something else ({differences}): "
            "give another folder (output=...), or delete that one to measure again"
        )


def digest(value: Any) -> str:
    """SHA-256 of anything JSON can hold, the same on every machine and in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def code_digest(method: str) -> str:
    """SHA-256 over the source of the engine, of the wrappers and of the method's own module."""
    package = [path for folder in (".", "pruning", "models") for path in (PACKAGE / folder).glob("*.py")]
    own = inspect.getsourcefile(get_method(method))
    files = {path.resolve() for path in package if path.name != "cli.py"} | ({Path(own).resolve()} if own else set())
    return _digest_files(sorted(files, key=lambda path: (path.name, str(path))))


def checkpoint_digest(checkpoint: str, revision: object = None) -> str:
    """SHA-256 over a local checkpoint's files; for a hub id, the id and the commit that its revision stands for now."""
    folder = Path(checkpoint)
    if folder.is_dir():
        return _digest_files(sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")))
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        config = hf_hub_download(checkpoint, "config.json", revision=str(revision or "main"))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        raise SweepError(f"pretrained: {checkpoint} could not be found: {error}") from error
    return f"{checkpoint}@{Path(config).parent.name}"  # …/snapshots/<commit>/config.json


def data_digest(task: Any, asked: Mapping[int, Request]) -> str:
    """SHA-256 over what an lmms-eval task asks (`asked`, the first of its documents): prompts, images, answers."""
    from datasets import Image

    total = hashlib.sha256()
    documents = task.eval_docs
    for column, feature in getattr(documents, "features", {}).items():
        if isinstance(feature, Image):
            for image in islice(documents.select_columns(column).cast_column(column, Image(decode=False)), len(asked)):
                stored = image[column] or {}
                total.update(stored.get("bytes") or str(stored.get("path")).encode())
    prompts = [[request.context, request.generation] for request in asked.values()]
    return digest([prompts, list(islice(task.eval_docs_no_media, len(asked))), total.hexdigest()])


def _digest_files(files: Iterable[Path]) -> str:
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()
