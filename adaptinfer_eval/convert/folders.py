"""Where a checkpoint is read from, and where one is written to, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from adaptinfer_eval.sweep.errors import SweepError


class Source(NamedTuple):
    """`origin`: a hub id with its commit, NAME@COMMIT; empty for a folder, of which nobody knows whose it is."""

    folder: Path
    origin: str = ""


def find_source(name: str) -> Source:
    """The checkpoint `name`, a folder or a hub id, which is downloaded where it is not here; SweepError if it fails."""
    if Path(name).is_dir():
        return Source(Path(name))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        why = " ".join(str(error).split())
        raise SweepError(
            f"{name} is no folder here, and could not be had from the hub ({why:.200}): check its name and the network"
        ) from error
    return Source(folder, f"{name}@{folder.name}")  # …/snapshots/<commit>


@contextmanager
def new_folder(target: Path, size: int) -> Iterator[Path]:
    """A folder to write `size` bytes to, which becomes `target` where the block ends well, and is gone where not."""
    if target.exists():
        raise SweepError(f"{target} is there already: choose another place, or delete it")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    if (free := shutil.disk_usage(target.parent).free) < size:
        raise SweepError(
            f"{target} takes {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free: free some, or choose another disk"
        )
    unfinished.mkdir()
    try:
        yield unfinished
        os.replace(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds a JSON object; SweepError where it is not there, or holds something else."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise SweepError(f"{path.parent} has no {path.name}: give the folder of a checkpoint") from error
    except ValueError as error:
        raise SweepError(f"{path} is damaged ({error}): download it again") from error
    if not isinstance(found, dict):
        raise SweepError(f"{path} is damaged (no JSON object): download it again")
    return found
