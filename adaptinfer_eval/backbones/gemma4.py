"""Gemma 4: an image of as many tokens as its size asks for, which see each other in layers with a window alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptinfer_eval.backbones.anatomy import Anatomy
from adaptinfer_eval.backbones.family import Family

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Gemma4(Family):
    """Gemma 4 whose layers all have keys of their own; on images, without sound."""

    model_type: ClassVar = "gemma4"
    title: ClassVar = "Gemma4"
    pretrained: ClassVar = "google/gemma-4-31B-it"
    decoders: ClassVar = ("gemma4_text",)
    apart: ClassVar = True
    any_size: ClassVar = True
    image_inputs: ClassVar = {"pixel_values": "images", "image_position_ids": "images"}
    follows: ClassVar = ("mm_token_type_ids",)
    hands_on: ClassVar = False
    unseen: ClassVar = "its tower pools patches by their positions, and which are in a token is not known here"

    def image_tokens(self, config: Any) -> int:
        """Of a large one, as its processor shows it by default."""
        return 280

    def anatomy(self, model: Any) -> Anatomy:
        text = model.config.get_text_config()
        if shared := getattr(text, "num_kv_shared_layers", 0):
            raise ValueError(
                f"the last {shared} layers of this Gemma 4 look at keys of earlier layers, which hold other tokens "
                "than they compute: use one whose layers have their own (31B, 26B-A4B)"
            )
        return super().anatomy(model)

    def token_types(self, is_image: Tensor) -> Mapping[str, Tensor]:
        return {"mm_token_type_ids": is_image.long()}
