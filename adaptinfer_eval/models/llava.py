"""LLaVA-1.5 (7B, 13B) on Hugging Face checkpoints, with the input of the original LLaVA by default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import AutoProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from adaptinfer_eval.backbones.prompts import checkpoint_template, marked, use_original_tokens, vicuna_v1
from adaptinfer_eval.backbones.vision import CLASS_TOKENS
from adaptinfer_eval.models.base import PrunedModel, method_classes
from adaptinfer_eval.models.options import plain
from adaptinfer_eval.models.requests import Message


class Llava(PrunedModel):
    """LLaVA-1.5 and checkpoints of its form.

    `image_aspect_ratio`: "pad" makes an image square with borders in the mean colour, as LLaVA-1.5 was trained and as
    the papers evaluate it; "crop" is the checkpoint's own processor, which cuts off what is not in the central square.
    `conv`: "vicuna_v1" is the original prompt with its system prompt, in the original's tokens; "hf" is the chat
    template of the checkpoint, in its tokenizer's.
    """

    family: ClassVar = "llava"

    def __init__(
        self,
        pretrained: str = "llava-hf/llava-1.5-7b-hf",
        image_aspect_ratio: str = "pad",
        conv: str = "vicuna_v1",
        **arguments: Any,
    ) -> None:
        self.image_aspect_ratio, self.conv = plain(image_aspect_ratio), plain(conv)
        for name, known in (("image_aspect_ratio", ("pad", "crop")), ("conv", ("vicuna_v1", "hf"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: known are {', '.join(known)}")
        super().__init__(pretrained, **arguments)
        # As many placeholders as the model makes features, whether the processor's own file says how many or not.
        tower = self.model.config.vision_config
        self.processor.patch_size = tower.patch_size
        self.processor.num_additional_image_tokens = CLASS_TOKENS[tower.model_type]
        self.processor.vision_feature_select_strategy = self.model.config.vision_feature_select_strategy

    def load_processor(self, pretrained: str, revision: str) -> Any:
        processor = AutoProcessor.from_pretrained(pretrained, revision=revision)  # type: ignore[no-untyped-call]
        if self.image_aspect_ratio == "pad":
            # Bit for bit the original's expand2square; sizes, mean and std stay the checkpoint's.
            processor.image_processor = LlavaImageProcessorPil.from_pretrained(
                pretrained, revision=revision, do_pad=True
            )
        if self.conv == "vicuna_v1":
            use_original_tokens(processor.tokenizer)
        return processor

    def conversation(self, messages: Sequence[Message]) -> str:
        if self.conv == "hf":
            return checkpoint_template(messages, self.processor)
        return vicuna_v1(messages, self.processor.image_token, self.tokenizer.decode(self._end_tokens()[:1]))

    def spelled(self, text: str) -> str:
        return text if self.conv == "hf" else marked(text, self.processor.image_token, self.processor.tokenizer)

    def settings(self) -> dict[str, Any]:
        return {"image_aspect_ratio": self.image_aspect_ratio, "conv": self.conv}


class LlavaChat(Llava):
    """Asks with the messages that a task makes of its documents."""

    is_simple = False


class LlavaSimple(Llava):
    """Asks with a task's text behind its images."""

    is_simple = True


__getattr__ = method_classes(LlavaChat, LlavaSimple)
