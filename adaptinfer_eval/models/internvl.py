"""InternVL (2.5, 3, 3.5) on Hugging Face's own form of its checkpoints, whose names end in -hf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import AutoProcessor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from adaptinfer_eval.backbones.prompts import checkpoint_template
from adaptinfer_eval.backbones.vision import image_tokens
from adaptinfer_eval.models.base import PrunedModel, method_classes
from adaptinfer_eval.models.options import whole
from adaptinfer_eval.models.requests import Message


class InternVL(PrunedModel):
    """InternVL over a decoder that the engine prunes; prompts are written by the checkpoint's chat template.

    `max_patches`: tiles of 448 × 448 pixels (256 vision tokens) that an image is cut into, at most. 1, the default,
    shows the whole image in one tile, so that every image has the same number of vision tokens. InternVL itself goes
    up to 12. Two tiles or more come with one more that shows the whole image, and a method treats all tiles like as
    many images: a budget per image is one per tile.
    """

    family: ClassVar = "internvl"

    def __init__(
        self, pretrained: str = "OpenGVLab/InternVL3-8B-hf", max_patches: int | str = 1, **arguments: Any
    ) -> None:
        self.max_patches = whole("max_patches", max_patches, "a whole number of tiles")
        super().__init__(pretrained, **arguments)
        # As many placeholders as the model makes features, whether the processor's own file says how many or not.
        self.processor.image_seq_length = image_tokens(self.model.config)

    def load_processor(self, pretrained: str, revision: str) -> Any:
        processor = AutoProcessor.from_pretrained(pretrained, revision=revision)  # type: ignore[no-untyped-call]
        # Pillow resizes, as in InternVL's own code. Not by backend="pil": the video part has no such backend.
        processor.image_processor = GotOcr2ImageProcessorPil.from_pretrained(
            pretrained, revision=revision, max_patches=self.max_patches
        )
        return processor

    def conversation(self, messages: Sequence[Message]) -> str:
        return checkpoint_template(messages, self.processor)

    def settings(self) -> dict[str, Any]:
        return {"max_patches": self.max_patches}


class InternVLChat(InternVL):
    """Asks with the messages that a task makes of its documents."""

    is_simple = False


class InternVLSimple(InternVL):
    """Asks with a task's text behind its images."""

    is_simple = True


__getattr__ = method_classes(InternVLChat, InternVLSimple)
