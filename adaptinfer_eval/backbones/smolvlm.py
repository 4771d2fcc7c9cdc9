"""SmolVLM (1 and 2) and Idefics3: an image in tiles and whole, each in a few pixel-shuffled tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptinfer_eval.backbones.family import Family, patches
from adaptinfer_eval.backbones.towers import Tower, layers_of, stacked

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SmolVLM(Family):
    """SmolVLM2. A method treats all tiles like as many images: a budget per image is one per tile."""

    model_type: ClassVar = "smolvlm"
    title: ClassVar = "SmolVLM"
    pretrained: ClassVar = "HuggingFaceTB/SmolVLM2-2.2B-Instruct"
    decoders: ClassVar = ("llama",)
    apart: ClassVar = True
    image_inputs: ClassVar = {"pixel_values": "prompts", "pixel_attention_mask": "prompts"}

    def image_tokens(self, config: Any) -> int:
        """Of a tile."""
        return int(patches(config.vision_config) // config.scale_factor**2)

    def tower(self, multimodal: Any) -> Tower | None:
        """Its connector makes tokens of patches, and projects them."""
        connector, layers = multimodal.connector, layers_of(multimodal.vision_model)
        return stacked(
            multimodal.vision_model,
            layers,
            len(layers) - 1,
            connector,
            side=connector.scale_factor,
            projects=connector.modality_projection,
        )

    def decoder(self, multimodal: Any) -> Any:
        return multimodal.text_model

    def random_images(self, config: Any, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """A tile each."""
        return {"pixel_values": super().random_images(config, count, generator)["pixel_values"][:, None]}


@dataclass(frozen=True, kw_only=True)
class Idefics3(SmolVLM):
    """Idefics3, and SmolVLM 1, whose checkpoints are of its form."""

    model_type: ClassVar = "idefics3"
    title: ClassVar = "Idefics3"
    pretrained: ClassVar = "HuggingFaceTB/SmolVLM-Instruct"
