"""Weights in files: mapped, so that a tensor takes memory only while it is copied; and written file by file."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptinfer_eval.convert.folders import read_json
from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.sweep.files import write_text

LARGEST_FILE = "2GB"
"""Of those that are written: what is in memory at once."""


def map_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name; SweepError where files are missing or damaged."""
    weights: dict[str, Tensor] = {}
    for path in _files(folder):
        try:
            if path.suffix == ".safetensors":
                weights |= load_file(path)
            else:
                weights |= torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
            why = " ".join(str(error).split())
            raise SweepError(f"{path} cannot be read ({why:.200}): download it again") from error
    return weights


def write_weights(
    folder: Path, planned: Mapping[str, Tensor], make: Callable[[str], Tensor], say: Callable[[str], None]
) -> None:
    """Write `make(name)` for every name of `planned`, whose tensors need no memory and have the sizes."""
    split = split_torch_state_dict_into_shards(dict(planned), max_shard_size=LARGEST_FILE)
    for number, (file, names) in enumerate(split.filename_to_tensors.items(), start=1):
        try:
            save_file({name: make(name).contiguous() for name in names}, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:  # the disk's trouble, said in its own way
            raise SweepError(f"{folder / file} cannot be written ({error}): free some space") from error
        say(f"{number} of {len(split.filename_to_tensors)}: {file}")
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2))


def _files(folder: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            names = sorted(set(read_json(index)["weight_map"].values()))
        elif (folder / name).is_file():
            names = [name]
        else:
            continue
        if missing := [name for name in names if not (folder / name).is_file()]:
            raise SweepError(f"{folder} lacks {', '.join(missing)}: download the checkpoint again")
        return [folder / name for name in names]
    raise SweepError(f"{folder} has no weights (model.safetensors or pytorch_model.bin): download the checkpoint again")
