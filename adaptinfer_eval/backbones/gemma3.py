"""Gemma 3: tokens of an image see each other, in most layers only those near by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptinfer_eval.backbones.family import Family
from adaptinfer_eval.backbones.towers import Tower, layers_of, stacked

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Gemma3(Family):
    """Gemma 3 from 4B on, which shows an image in 256 tokens, whole: without the crops of pan and scan."""

    model_type: ClassVar = "gemma3"
    title: ClassVar = "Gemma3"
    pretrained: ClassVar = "google/gemma-3-4b-it"
    decoders: ClassVar = ("gemma3_text",)
    apart: ClassVar = True
    follows: ClassVar = ("token_type_ids",)
    hands_on: ClassVar = False

    def image_tokens(self, config: Any) -> int:
        return int(config.mm_tokens_per_image)

    def tower(self, multimodal: Any) -> Tower | None:
        model = multimodal.vision_tower
        layers = layers_of(model)
        patches, tokens = model.config.image_size // model.config.patch_size, self.image_tokens(multimodal.config)
        side, projector = patches // math.isqrt(tokens), multimodal.multi_modal_projector

        def projects(rows: Tensor) -> Tensor:
            projected: Tensor = projector.mm_soft_emb_norm(rows) @ projector.mm_input_projection_weight
            return projected

        return stacked(model, layers, len(layers) - 1, projector, side=side, pooled=True, projects=projects)

    def token_types(self, is_image: Tensor) -> Mapping[str, Tensor]:
        return {"token_type_ids": is_image.long()}

    def mark(self, processor: Any) -> str:
        """The token that begins an image; its processor writes those of the image itself."""
        return str(processor.boi_token)
