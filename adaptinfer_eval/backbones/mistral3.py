"""Mistral Small 3.1 (Mistral 3): an image as large as it is, in rows of tokens with one between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptinfer_eval.backbones.family import Family
from adaptinfer_eval.backbones.llava import layers_read
from adaptinfer_eval.backbones.towers import Grid, Tower

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

    def tower(self, multimodal: Any) -> Tower | None:
        """Images lie one behind the other; the projector makes a token of 2 × 2 patches, by the image's size."""
        config, model, projector = multimodal.config, multimodal.vision_tower, multimodal.multi_modal_projector
        read, side, patch = layers_read(config), config.spatial_merge_size, model.patch_size
        if not read:
            return None

        def grids(named: Mapping[str, Any]) -> list[Grid]:
            sizes = named.get("image_sizes")
            if sizes is None:
                images, _, height, width = named["pixel_values"].shape
                sizes = [(height, width)] * images
            return [(int(height) // patch, int(width) // patch) for height, width in sizes]

        def projects(rows: Tensor) -> Tensor:
            """As the tokens of one image, side by side."""
            tokens = rows.reshape(-1, side, side, rows.shape[-1] // side**2)
            image = tokens.transpose(0, 1).reshape(-1, tokens.shape[-1])
            projected: Tensor = projector.forward(image, [(side * patch, len(tokens) * side * patch)])
            return projected.view(*rows.shape[:-1], -1)

        return Tower(
            model,
            list(model.transformer.layers),
            read - 1,
            projector,
            grids,
            attention="attention",
            arguments=("pixel_values", "image_sizes"),
            packed=True,
            side=side,
            projects=projects,
        )

    def random_images(self, config: Any, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        import torch

        side = config.vision_config.image_size
        return {
            "pixel_values": torch.rand(count, 3, side, side, generator=generator),
            "image_sizes": torch.tensor([[side, side]] * count),
        }
