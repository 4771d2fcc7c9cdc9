"""The model's shape, for `plan`: from the checkpoint's config.json where that is here, without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from adaptinfer_eval.backbones import FAMILIES, family_of
from adaptinfer_eval.models import checkpoint
from adaptinfer_eval.sweep.config import Shape, SweepConfig, SweepError


def check_checkpoint(config: SweepConfig, download: bool = True) -> dict[str, Any] | None:
    """What the checkpoint's config.json says; None where it is not here. SweepError unless it is one of `backbone`."""
    return _checked(config, config.backbone, download)


def with_family(config: SweepConfig) -> SweepConfig:
    """`config` with the family that its checkpoint's config.json names; SweepError where that is none that is known."""
    found = _checked(config)
    assert found is not None  # it is None only where nothing may be downloaded
    return config.model_copy(update={"backbone": found["model_type"]})


def model_shape(config: SweepConfig) -> Shape:
    """From the checkpoint's config.json if that is on this machine, else from the configuration."""
    written = check_checkpoint(config, download=False)
    if written is None:
        if config.shape is None:
            raise SweepError(f"{config.pretrained} is not on this machine: download it, or state its `shape`")
        return config.shape
    named = _named(written, FAMILIES[config.backbone].left_out)
    try:
        return _shape(named, named.text_config)
    except (AttributeError, TypeError, ValueError):  # not all is said, or it is no model's: transformers knows more
        pass
    try:
        return _configured_shape(config)
    except Exception as error:  # whatever its configuration classes make of it
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise SweepError(
            f"config.json of {config.checkpoint} is not a model's configuration ({why}): download the checkpoint again"
        ) from error


def _named(written: Any, left_out: Mapping[str, Mapping[str, Any]]) -> Any:
    """JSON with its objects' keys as names, and what transformers adds to them."""
    if not isinstance(written, dict):
        return written
    told = {**left_out.get(str(written.get("model_type")), {}), **written}
    return SimpleNamespace(**{key: _named(value, left_out) for key, value in told.items()})


def _shape(found: Any, text: Any) -> Shape:
    family = family_of(found)
    return Shape(
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        vision_tokens=family.image_tokens(found),
        merging_layers=family.merging_layers(found),
    )


def _configured_shape(config: SweepConfig) -> Shape:
    """What is left to the defaults of a class that only transformers knows."""
    from transformers import AutoConfig

    revision = _revision(config) or "main"
    found = AutoConfig.from_pretrained(config.checkpoint, revision=revision, local_files_only=True)
    return _shape(found, found.get_text_config())


def _checked(config: SweepConfig, family: str | None = None, download: bool = True) -> dict[str, Any] | None:
    try:
        return checkpoint.check_checkpoint(config.checkpoint, _revision(config), family, download)
    except checkpoint.CheckpointError as error:
        raise SweepError(str(error)) from error


def _revision(config: SweepConfig) -> str | None:
    revision = config.model_args.get("revision")
    return None if revision is None else str(revision)
