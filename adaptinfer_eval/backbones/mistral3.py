"""Mistral Small 3.1 (Mistral 3): an image as large as it is, in rows of tokens with one between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptinfer_eval.backbones.family import Family

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Mistral3(Family):
    """Mistral 3. The tokens between an image's rows, and the one that ends it, are text: they are all kept."""

    model_type: ClassVar = "mistral3"
    title: ClassVar = "Mistral3"
    pretrained: ClassVar = "mistralai/Mistral-Small-3.1-24B-Instruct-2503"
    decoders: ClassVar = ("mistral",)
    any_size: ClassVar = True
    in_rows: ClassVar = True
    image_inputs: ClassVar = {"pixel_values": "images", "image_sizes": "images"}

    def image_tokens(self, config: Any) -> int:
        """Of the largest square image."""
        vision = config.vision_config
        return int(vision.image_size // (vision.patch_size * config.spatial_merge_size)) ** 2

    def random_images(self, config: Any, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        import torch

        side = config.vision_config.image_size
        return {
            "pixel_values": torch.rand(count, 3, side, side, generator=generator),
            "image_sizes": torch.tensor([[side, side]] * count),
        }
