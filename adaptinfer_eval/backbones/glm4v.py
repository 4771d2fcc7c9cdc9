"""GLM-4.1V and its like: positions on three axes, images prepared as for Qwen2-VL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from adaptinfer_eval.backbones.qwen_vl import Qwen2VL


@dataclass(frozen=True, kw_only=True)
class Glm4V(Qwen2VL):
    """GLM-4V on images: a video's frames have the placeholders of images there, and are not told from them."""

    model_type: ClassVar = "glm4v"
    title: ClassVar = "Glm4V"
    pretrained: ClassVar = "zai-org/GLM-4.1V-9B-Thinking"
    decoders: ClassVar = ("glm4v_text",)
    image_inputs: ClassVar = {"pixel_values": "image tokens", "image_grid_thw": "images"}

    def vision_ids(self, config: Any) -> tuple[int, ...]:
        return (config.image_token_id,)
