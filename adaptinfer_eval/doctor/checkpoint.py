"""Is the checkpoint here, or can it be had; and is there room for it?"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adaptinfer_eval.doctor.finding import Finding, one_line
from adaptinfer_eval.doctor.hub import ask_hub
from adaptinfer_eval.doctor.machine import GB, free_space, memory
from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.shape import check_checkpoint

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def checkpoint(config: SweepConfig) -> Iterator[Finding]:
    """Findings about the checkpoint and, where its size is known, about memory for it. Nothing is downloaded."""
    revision = config.model_args.get("revision")
    folder = _folder(config, None if revision is None else str(revision))
    missing = _missing(folder) if folder else ["all"]
    if folder is None or (missing and folder != Path(config.checkpoint)):
        yield from _to_download(config, None if revision is None else str(revision))
        return
    if missing:
        remedy = f"copy what is missing, or give another checkpoint (pretrained={config.pretrained} now)"
        yield Finding("checkpoint", "fails", f"{folder} lacks {', '.join(missing)}", remedy)
        return
    try:
        check_checkpoint(config, download=False)
    except SweepError as error:  # what a run refuses: another family, a revision of a folder
        yield Finding("checkpoint", "fails", str(error))
        return
    weights = sum((folder / name).stat().st_size for name in _weight_files(folder))
    yield _loads(config, folder, weights)
    yield from memory(config, weights * _growth(folder, config.dtype))


def _folder(config: SweepConfig, revision: str | None) -> Path | None:
    """Where the checkpoint is on this machine; None where there is nothing of it."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(config.checkpoint).is_dir():
        return Path(config.checkpoint)
    try:
        found = try_to_load_from_cache(config.checkpoint, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _weight_files(folder: Path) -> list[str]:
    for name in WEIGHTS:
        if (folder / name).exists():
            return [name]
        if (index := folder / f"{name}.index.json").exists():
            return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [WEIGHTS[0]]


def _missing(folder: Path) -> list[str]:
    names = ["config.json", *_weight_files(folder)]
    return [name for name in names if not (folder / name).exists()]


def _loads(config: SweepConfig, folder: Path, weights: float) -> Finding:
    """Do transformers know the model, and load its processor? Weights are left alone: they may take minutes."""
    from transformers import AutoConfig, AutoProcessor

    text = f"{config.pretrained} is here, {weights / GB:.3g} GB"
    try:
        AutoConfig.from_pretrained(folder)
        AutoProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]
    except Exception as error:
        traceback.print_exc()
        remedy = "copy it again; where the model is younger than transformers, see which versions README names"
        return Finding("checkpoint", "fails", f"{text}, and does not load: {one_line(error)}", remedy)
    return Finding("checkpoint", "ok", text)


def _growth(folder: Path, dtype: str) -> float:
    """Bytes of the weights in memory per byte in the files."""
    from transformers import AutoConfig

    stored: Any = AutoConfig.from_pretrained(folder).dtype
    wanted = BYTES.get(dtype)
    return 1.0 if wanted is None or stored is None else wanted / float(stored.itemsize)


def _to_download(config: SweepConfig, revision: str | None) -> Iterator[Finding]:
    from huggingface_hub import constants

    if Path(config.pretrained).is_absolute() or config.pretrained.count("/") != 1:
        remedy = (
            "look at the spelling of pretrained, and at the folder you are in; one that is converted is made first "
            "(adaptinfer-eval convert)"
        )
        yield Finding("checkpoint", "fails", f"there is no folder {config.pretrained}", remedy)
        return
    reply = ask_hub("model", config.pretrained, revision, ("*.safetensors", "*.json", "*.model"))
    if reply.reason:
        yield Finding("checkpoint", "fails", reply.reason, reply.remedy)
        return
    cache = Path(constants.HF_HOME)
    _, free = free_space(cache)
    text = f"{config.pretrained} is not here; the run will download {reply.bytes / GB:.3g} GB to {cache}"
    if reply.bytes > free:
        remedy = f"free some space, or set HF_HOME to another disk; then {reply.remedy}"
        yield Finding("checkpoint", "fails", f"{text}, where {free / GB:.3g} GB are free", remedy)
    else:
        yield Finding("checkpoint", "warning", text, f"to have it beforehand: {reply.remedy}")
    yield from memory(config, float(reply.bytes))
