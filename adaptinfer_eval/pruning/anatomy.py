"""Where the parts of a supported model are. The one place that knows model families."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

# Decoders whose layers share Llama's call (tried with every method); others may mask images in ways of their own.
TEXT_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
VISION_LANGUAGE_FAMILIES = ("llava", "internvl")
# Merging needs a tower that hands on any number of tokens: InternVL's pixel shuffle takes whole squares only.
TOWER_FAMILIES = ("clip_vision_model",)


@dataclass(frozen=True)
class Tower:
    """A CLIP vision tower: its `layers` up to the one whose output is read, and the patches of an image."""

    model: nn.Module
    layers: list[nn.Module]
    image_tokens: int


@dataclass(frozen=True)
class Anatomy:
    """`text`: the decoder stack. `multimodal`: the module that gets input_ids and images, None for a bare decoder.

    `projector`: turns tower output into vision tokens. `image_token`: the placeholder's id.
    """

    text: PreTrainedModel | None
    multimodal: nn.Module | None = None
    projector: nn.Module | None = None
    tower: Tower | None = None
    image_token: int | None = None

    @property
    def layers(self) -> list[nn.Module]:
        return [] if self.text is None else list(self.text.layers)  # type: ignore[arg-type]


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Find the parts of `model`; ValueError when its family is not supported."""
    config: Any = model.config
    family = config.model_type
    if family in TOWER_FAMILIES:
        return Anatomy(text=None, tower=_tower(model, feature_layer=-2))
    if family in VISION_LANGUAGE_FAMILIES and config.text_config.model_type in TEXT_FAMILIES:
        inner: Any = model.model if hasattr(model, "lm_head") else model
        tower = None
        if config.vision_config.model_type in TOWER_FAMILIES and config.vision_feature_select_strategy == "default":
            tower = _tower(inner.vision_tower, config.vision_feature_layer)
        return Anatomy(
            text=inner.language_model,
            multimodal=inner,
            projector=inner.multi_modal_projector,
            tower=tower,
            image_token=config.image_token_id,
        )
    if family in TEXT_FAMILIES:
        decoder: Any = model.model if hasattr(model, "lm_head") else model
        return Anatomy(text=decoder)
    raise ValueError(
        f"{type(model).__name__} ({family}) is not a model that can be pruned; supported are "
        f"{', '.join(VISION_LANGUAGE_FAMILIES)} over {', '.join(TEXT_FAMILIES)}, these decoders alone with "
        f"inputs_embeds and vision_mask=, and {', '.join(TOWER_FAMILIES)} for methods of the vision tower"
    )


def _tower(model: nn.Module, feature_layer: Any) -> Tower | None:
    if not isinstance(feature_layer, int):
        return None
    encoder: Any = getattr(model, "vision_model", model)  # older releases nest the encoder once more
    layers = list(encoder.encoder.layers)
    # hidden_states[0] is the embedding, hidden_states[i] the output of layer i - 1.
    read = feature_layer if feature_layer >= 0 else len(layers) + 1 + feature_layer
    config: Any = model.config
    return Tower(model, layers[:read], (config.image_size // config.patch_size) ** 2)
