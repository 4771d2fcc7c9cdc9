"""GLM-4.1V and its like: positions on three axes, images prepared as for Qwen2-VL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from adaptinfer_eval.backbones.messages import Message, checkpoint_template
from adaptinfer_eval.backbones.qwen_vl import Grid
from adaptinfer_eval.backbones.towers import Tower


@dataclass(frozen=True, kw_only=True)
class Glm4V(Grid):
    """GLM-4V on images: a video's frames have the placeholders of images there, and are not told from them."""

    model_type: ClassVar = "glm4v"
    title: ClassVar = "Glm4V"
    pretrained: ClassVar = "zai-org/GLM-4.1V-9B-Thinking"
    decoders: ClassVar = ("glm4v_text",)

    def conversation(self, messages: Sequence[Message], processor: Any, end: Callable[[], str]) -> str:
        """Its template writes what a system or an assistant says as it is: a list would be written as Python's."""
        return checkpoint_template(messages, processor, strings=("system", "assistant"))

    def tower(self, multimodal: Any) -> Tower | None:
        """Its merger is given tokens that a convolution has made of patches."""
        tower = super().tower(multimodal)
        return tower and replace(tower, shuffled=True, projects=None)

    def sizes(self, processor: Any) -> list[tuple[Any, int]]:
        """A pixel counts for every frame of a step in time, of which an image fills all."""
        images = processor.image_processor
        return [(images.size, int(images.temporal_patch_size))]
