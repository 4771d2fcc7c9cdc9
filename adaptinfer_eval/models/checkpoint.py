"""What a checkpoint says of itself, and what is wrong with that, before it is loaded. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from adaptinfer_eval.backbones import FAMILIES, why_not


class CheckpointError(ValueError):
    """A checkpoint that cannot be measured: which one, what is wrong with it, and what to do."""


def check_checkpoint(
    pretrained: str, revision: str | None = None, family: str | None = None, download: bool = True
) -> dict[str, Any] | None:
    """What config.json of `pretrained` (a folder or a hub id) says; CheckpointError unless it is one of `family`.

    Without `family`, of any that is known. With `download=False`, None for a hub id whose config.json is not here.
    """
    path = _config_file(pretrained, revision, download)
    if path is None:
        return None
    config = _read_json(path)
    found = config.get("model_type")
    if found not in tuple(FAMILIES):  # it may be anything that JSON can say
        if why := why_not(str(found)):
            raise CheckpointError(f"{path} is of model_type {found!r}, which cannot be pruned: {why}")
        raise CheckpointError(
            f"{path} is of model_type {found!r}: use a checkpoint of {' or '.join(FAMILIES)} in Hugging Face's own "
            "form (on the hub, names of LLaVA's and InternVL's end in -hf)"
        )
    if family not in (None, found):
        raise CheckpointError(
            f"{path} is of model_type {found!r} and was asked for as {family}: "
            f"use backbone={found} (in lmms-eval a model METHOD_{found}), or another checkpoint"
        )
    return config


def _config_file(pretrained: str, revision: str | None, download: bool) -> Path | None:
    here = Path(pretrained)
    if not pretrained.strip():
        raise CheckpointError("pretrained is empty: name a checkpoint on the hub, or its folder")
    if here.is_file():
        raise CheckpointError(f"pretrained={pretrained} is a file: give the folder of the checkpoint")
    if not here.is_dir() and download and "/" not in pretrained:  # the hub's have an owner
        raise CheckpointError(
            f"pretrained: there is no folder {pretrained}: look at its name and at the folder you are in; one that is "
            "converted is made first (adaptinfer-eval convert)"
        )
    if not here.is_dir():
        return _hub_file(pretrained, revision, download)
    if revision not in (None, "main"):
        raise CheckpointError(
            f"revision={revision} means nothing for the folder {pretrained}: leave it out, or give the checkpoint's "
            "name on the hub"
        )
    if not (here / "config.json").is_file():
        raise CheckpointError(
            f"{pretrained} has no config.json: give the folder of a checkpoint in Hugging Face's form"
        )
    return here / "config.json"


def _hub_file(pretrained: str, revision: str | None, download: bool) -> Path | None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        if download:
            return Path(hf_hub_download(pretrained, "config.json", revision=revision))
        cached = try_to_load_from_cache(pretrained, "config.json", revision=revision)
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"pretrained: {pretrained} could not be found ({' '.join(str(error).split())}): check its name and "
            "revision, and that the network is there; a gated checkpoint needs `hf auth login`"
        ) from error
    return Path(cached) if isinstance(cached, str) else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # not JSON, or no text at all
        raise CheckpointError(f"{path} is damaged ({error}): restore it, or download the checkpoint again") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is damaged (no JSON object): restore it, or download the checkpoint again")
    return config
