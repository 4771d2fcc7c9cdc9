"""Where the parts of a supported model are. The one place that knows model families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from adaptinfer_eval.backbones.vision import MERGING_TOWERS, image_tokens, merging_layers

# Decoders whose layers share Llama's call (tried with every method); others may mask images in ways of their own.
TEXT_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
MULTIMODAL_ROTARY = ("qwen2_vl_text", "qwen2_5_vl_text")
"""Decoders, so far without their vision towers, whose positions have three axes (M-RoPE)."""
VISION_LANGUAGE_FAMILIES = ("llava", "internvl")


@dataclass(frozen=True)
class Tower:
    """A CLIP vision tower: its `layers` up to the one whose output is read, and the patches of an image."""

    model: nn.Module
    layers: list[nn.Module]
    image_tokens: int


@dataclass(frozen=True)
class Anatomy:
    """`text`: the decoder stack. `multimodal`: the module that gets input_ids and images, None for a bare decoder.

    `projector`: turns tower output into vision tokens. `image_token`: the placeholder's id, which stands
    `image_tokens` times for an image (with InternVL, for a tile of it).
    """

    text: PreTrainedModel | None
    multimodal: nn.Module | None = None
    projector: nn.Module | None = None
    tower: Tower | None = None
    image_token: int | None = None
    image_tokens: int = 0

    @property
    def several_axes(self) -> bool:
        """Whether the decoder's positions have more than one axis."""
        return self.text is not None and self.text.config.model_type in MULTIMODAL_ROTARY

    @property
    def layers(self) -> list[nn.Module]:
        return [] if self.text is None else list(self.text.layers)  # type: ignore[arg-type]


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Find the parts of `model`; ValueError when its family is not supported."""
    config: Any = model.config
    family = config.model_type
    if family in MERGING_TOWERS:  # alone: LLaVA reads the output of its last layer but one
        return Anatomy(text=None, tower=_tower(model, config.num_hidden_layers - 1))
    if family in VISION_LANGUAGE_FAMILIES and config.text_config.model_type in TEXT_FAMILIES:
        inner: Any = model.model if hasattr(model, "lm_head") else model
        merging = merging_layers(config)
        return Anatomy(
            text=inner.language_model,
            multimodal=inner,
            projector=inner.multi_modal_projector,
            tower=_tower(inner.vision_tower, merging) if merging else None,
            image_token=config.image_token_id,
            image_tokens=image_tokens(config),
        )
    if family in TEXT_FAMILIES + MULTIMODAL_ROTARY:
        decoder: Any = model.model if hasattr(model, "lm_head") else model
        return Anatomy(text=decoder)
    raise ValueError(
        f"{type(model).__name__} ({family}) is not a model that can be pruned; supported are "
        f"{', '.join(VISION_LANGUAGE_FAMILIES)} over {', '.join(TEXT_FAMILIES)}, these decoders and "
        f"{', '.join(MULTIMODAL_ROTARY)} alone with inputs_embeds and vision_mask=, and {', '.join(MERGING_TOWERS)} "
        "for methods of the vision tower"
    )


def _tower(model: nn.Module, read: int) -> Tower:
    encoder: Any = getattr(model, "vision_model", model)  # older releases nest the encoder once more
    config: Any = model.config
    return Tower(model, list(encoder.encoder.layers)[:read], (config.image_size // config.patch_size) ** 2)
