"""The model's shape, for `plan`: from the checkpoint's config.json where that is here, without transformers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from adaptinfer_eval.backbones.vision import image_tokens, merging_layers
from adaptinfer_eval.models import checkpoint
from adaptinfer_eval.sweep.config import Shape, SweepConfig, SweepError

LEFT_OUT: dict[str, dict[str, Any]] = {
    "llava": {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"},
    "llama": {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008},
}
"""What the config.json of LLaVA-1.5-7B leaves out: transformers' defaults by model type, known without importing it."""


def check_checkpoint(config: SweepConfig, download: bool = True) -> dict[str, Any] | None:
    """What the checkpoint's config.json says; None where it is not here. SweepError unless it is one of `backbone`."""
    try:
        return checkpoint.check_checkpoint(config.checkpoint, _revision(config), config.backbone, download)
    except checkpoint.CheckpointError as error:
        raise SweepError(str(error)) from error


def model_shape(config: SweepConfig) -> Shape:
    """From the checkpoint's config.json if that is on this machine, else from the configuration."""
    written = check_checkpoint(config, download=False)
    if written is None:
        if config.shape is None:
            raise SweepError(f"{config.pretrained} is not on this machine: download it, or state its `shape`")
        return config.shape
    named = _named(written)
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


def _named(written: Any) -> Any:
    """JSON with its objects' keys as names, and what transformers adds to them."""
    if not isinstance(written, dict):
        return written
    told = {**LEFT_OUT.get(str(written.get("model_type")), {}), **written}
    return SimpleNamespace(**{key: _named(value) for key, value in told.items()})


def _shape(found: Any, text: Any) -> Shape:
    return Shape(
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        vision_tokens=image_tokens(found),
        merging_layers=merging_layers(found),
    )


def _configured_shape(config: SweepConfig) -> Shape:
    """What is left to the defaults of a class that only transformers knows."""
    from transformers import AutoConfig

    revision = _revision(config) or "main"
    found = AutoConfig.from_pretrained(config.checkpoint, revision=revision, local_files_only=True)
    return _shape(found, found.get_text_config())


def _revision(config: SweepConfig) -> str | None:
    revision = config.model_args.get("revision")
    return None if revision is None else str(revision)
