"""PaliGemma 1 and 2: image and question see each other whole, and only the answer is read from left to right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptinfer_eval.backbones.family import Family, patches
from adaptinfer_eval.backbones.messages import Image, Message
from adaptinfer_eval.backbones.towers import Tower, layers_of, stacked

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BatchFeature


@dataclass(frozen=True, kw_only=True)
class PaliGemma(Family):
    """PaliGemma. It knows no roles: images come first, then all that is said; a prompt without an image is refused."""

    model_type: ClassVar = "paligemma"
    title: ClassVar = "PaliGemma"
    pretrained: ClassVar = "google/paligemma2-3b-mix-448"
    decoders: ClassVar = ("gemma", "gemma2")
    first_position: ClassVar = 1
    follows: ClassVar = ("token_type_ids",)
    hands_on: ClassVar = False

    def image_tokens(self, config: Any) -> int:
        return patches(config.vision_config)

    def tower(self, multimodal: Any) -> Tower | None:
        model = multimodal.vision_tower
        layers = layers_of(model)
        return stacked(model, layers, len(layers) - 1, multimodal.multi_modal_projector)

    def token_types(self, is_image: Tensor) -> Mapping[str, Tensor]:
        """0 before the answer."""
        return {"token_type_ids": is_image.new_zeros(is_image.shape).long()}

    def conversation(self, messages: Sequence[Message], processor: Any, end: Callable[[], str]) -> str:
        parts = [part for _, content in messages for part in content]
        images = sum(isinstance(part, Image) for part in parts)
        if not images:
            raise ValueError("PaliGemma is asked about images, and this prompt shows none: choose other tasks")
        return self.mark(processor) * images + "\n".join(part for part in parts if isinstance(part, str))

    def process(
        self, processor: Any, texts: Sequence[str], pictures: Sequence[Sequence[Any]], **options: Any
    ) -> BatchFeature:
        """Without the labels of training that its processor adds."""
        inputs = super().process(processor, texts, pictures, **options)
        inputs.pop("labels", None)
        return inputs
