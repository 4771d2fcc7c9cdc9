"""What decides a cell's answers, and its fingerprints. Two records with the same identity are the same measurement."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptinfer_eval.methods.by_file import file_of
from adaptinfer_eval.methods.method import get_method
from adaptinfer_eval.sweep.cells import Cell
from adaptinfer_eval.sweep.config import PACKAGE, SweepConfig, SweepError, shipped

if TYPE_CHECKING:  # light: records are read without lmms-eval
    from adaptinfer_eval.models.requests import Request

SCHEMA_VERSION = 3
SAME_IN_A_SWEEP = (
    "schema_version",
    "harness",
    "prompts",
    "backbone",
    "limit",
    "dtype",
    "pretrained",
    "model_args",
    "checkpoint",
    "engine",
    "versions",
)
"""Tables compare across cells, so these are the same in a whole folder."""


@dataclass(frozen=True)
class Sources:
    """Fingerprints of all that answers and scores are made from. `data` by task, `code` by method."""

    checkpoint: str
    engine: str
    versions: dict[str, str]
    data: dict[str, str]
    code: dict[str, str]

    @classmethod
    def read(cls, config: SweepConfig, tasks: Mapping[str, Any], asked: Mapping[str, Mapping[int, Request]]) -> Sources:
        """As they are now, in this process. `tasks`: lmms-eval's; `asked`: their questions by document."""
        return cls(
            checkpoint=checkpoint_digest(config.checkpoint, config.model_args.get("revision")),
            engine=engine_digest(config.harness),
            versions=_versions(config.harness),
            data={name: data_digest(task, asked[name]) for name, task in tasks.items()},
            code={name: code_digest(name) for name in {entry.name for entry in config.methods}},
        )

    def pin(self, config: SweepConfig) -> SweepConfig:
        """`config` for workers elsewhere: a folder by its whole path, a hub checkpoint by its commit."""
        pinned: dict[str, Any] = {"pretrained": config.checkpoint}
        if not Path(config.checkpoint).is_dir():
            pinned["model_args"] = {**config.model_args, "revision": self.checkpoint.rsplit("@", 1)[1]}
        return config.model_copy(update=pinned)


def identity(config: SweepConfig, cell: Cell, schedule: str, sources: Sources) -> dict[str, Any]:
    """All that decides a cell's answers. What must not change them (batch size, workers, sharing) is not in it.

    `schedule`: what the method does for this model and prompts of `images` images.
    """
    setting = cell.setting
    return {
        "schema_version": SCHEMA_VERSION,
        "harness": config.harness,
        "prompts": config.prompts,
        "backbone": cell.backbone,
        "method": setting.entry.title,
        "options": setting.entry.options,
        "budget": setting.budget,
        "count": setting.count,
        "per": setting.per,
        "schedule": schedule,
        "task": cell.task,
        "metric": config.metrics.get(cell.task, ""),
        "limit": config.limit,
        "seed": config.seed_of(setting.seed),
        "repeat": setting.repeat,
        "dtype": config.dtype,
        "pretrained": config.pretrained,
        "model_args": config.model_args,
        "checkpoint": sources.checkpoint,
        "data": sources.data[cell.task],
        "code": sources.code[setting.entry.name],
        "engine": sources.engine,
        "versions": sources.versions,
    }


def compare(where: object, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """SweepError, naming the keys, where what was measured is not what is asked for now."""
    if changed := changes(found, wanted):
        raise SweepError(
            f"{where} was measured with something else ({changed}): "
            "give another folder (output), or delete that one to measure again"
        )


def changes(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Where `found` is not as `wanted`, for an error message; empty where it is. What else it says does not matter."""
    wanted = json.loads(json.dumps(wanted))
    changed = (key for key in wanted if found.get(key) != wanted[key])
    return ", ".join(f"{key} was {found.get(key)!r:.60}, is {wanted[key]!r:.60}" for key in changed)


def digest(value: Any) -> str:
    """SHA-256 of anything JSON can hold, the same on every machine and in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else str(value)


def _versions(harness: str) -> dict[str, str]:
    found = {name: version(name) for name in ("adaptinfer-eval", "transformers", "torch", "lmms-eval")}
    if harness == "vlmevalkit":
        from adaptinfer_eval.vlmevalkit.kit import kit_version

        found |= kit_version()
    return found


def engine_digest(harness: str = "lmms-eval") -> str:
    """SHA-256 over the source of the engine, of the wrappers, and of the tasks with their scoring in a harness."""
    folders = (".", "methods", "backbones", "pruning", "models", *(["vlmevalkit"] if harness == "vlmevalkit" else []))
    package = [path for folder in folders for path in (PACKAGE / folder).glob("*.py")]
    scoring = [PACKAGE / "sweep" / name for name in ("scores.py", "samples.py", "units.py", "score.py")]
    tasks = shipped("tasks")
    described = [path for kind in ("*/*.py", "*/*.yaml") for path in tasks.glob(kind)] if tasks else []
    return digest_files(sorted(path for path in package + scoring + described if path.name != "drawing.py"))


def code_digest(method: str) -> str:
    """SHA-256 over the source of the method's own module, or of the file that it is named by."""
    path = file_of(method) or inspect.getsourcefile(get_method(method))
    return digest_files([Path(path)] if path else [])


def checkpoint_digest(checkpoint: str, revision: object = None) -> str:
    """SHA-256 over a local checkpoint's files; for a hub id, the id and the commit that its revision stands for now.

    A folder that was converted from a checkpoint on the hub has the id and the commit of that before it.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        files = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
        written = folder / "config.json"
        origin = json.loads(written.read_bytes()).get("converted_from") if written in files else None
        return "@".join(filter(None, [origin, digest_files(files)]))
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        config = hf_hub_download(checkpoint, "config.json", revision=str(revision or "main"))
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError) as error:
        raise SweepError(f"pretrained: {checkpoint} could not be found: {error}") from error
    return f"{checkpoint}@{Path(config).parent.name}"  # …/snapshots/<commit>/config.json


def data_digest(task: Any, asked: Mapping[int, Request]) -> str:
    """SHA-256 over what an lmms-eval task asks (`asked`, by document): prompts, images, answers."""
    total = hashlib.sha256()
    documents = task.eval_docs
    if hasattr(documents, "with_format"):  # as they are stored: images are not decoded, wherever they stand
        documents = documents.with_format("arrow")
        for start in range(0, len(asked), 100):
            total.update(digest(documents[list(islice(asked, start, start + 100))].to_pylist()).encode())
    prompts = [[request.context, request.generation] for request in asked.values()]
    return digest([prompts, [task.eval_docs_no_media[doc] for doc in asked], total.hexdigest()])


def digest_files(files: Iterable[Path]) -> str:
    """SHA-256 over some files, their names and what is in them."""
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return total.hexdigest()
