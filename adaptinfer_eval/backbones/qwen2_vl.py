"""Qwen2-VL and Qwen2.5-VL: positions on three axes, and images of as many vision tokens as their size asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from adaptinfer_eval.backbones.family import Family


@dataclass(frozen=True, kw_only=True)
class Qwen2VL(Family):
    """Qwen2-VL. A video is an image of many frames: its placeholders are vision tokens, too."""

    model_type: ClassVar = "qwen2_vl"
    title: ClassVar = "Qwen2VL"
    pretrained: ClassVar = "Qwen/Qwen2-VL-7B-Instruct"
    decoders: ClassVar = ("qwen2_vl_text",)

    def image_tokens(self, config: Any) -> int:
        """Every image has a number of its own."""
        return 0

    def vision_ids(self, config: Any) -> tuple[int, ...]:
        return (config.image_token_id, config.video_token_id)


@dataclass(frozen=True, kw_only=True)
class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL: frames of a video may be several positions apart."""

    model_type: ClassVar = "qwen2_5_vl"
    title: ClassVar = "Qwen25VL"
    pretrained: ClassVar = "Qwen/Qwen2.5-VL-7B-Instruct"
    decoders: ClassVar = ("qwen2_5_vl_text",)
