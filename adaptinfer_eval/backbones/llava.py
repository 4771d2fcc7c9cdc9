"""LLaVA-1.5 (7B, 13B) on Hugging Face checkpoints, with the input of the original LLaVA by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from adaptinfer_eval.backbones.family import Family, Square, patches
from adaptinfer_eval.backbones.messages import Message
from adaptinfer_eval.backbones.options import choice
from adaptinfer_eval.backbones.towers import MERGING_TOWERS, Tower, layers_of, pair, stacked

CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0, "internvl_vision": 1}
"""Vision towers → tokens of theirs that are no patch."""
CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
VICUNA_7B = {
    "model_type": "llama",
    "vocab_size": 32064,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


@dataclass(frozen=True, kw_only=True)
class Llava(Family):
    """LLaVA-1.5 and checkpoints of its form.

    `image_aspect_ratio`: "pad" makes an image square with borders in the mean colour, as LLaVA-1.5 was trained and as
    the papers evaluate it; "crop" is the checkpoint's own processor, which cuts off what is not in the central square.
    `conv`: "vicuna_v1" is the original prompt with its system prompt, in the original's tokens; "hf" is the chat
    template of the checkpoint, in its tokenizer's.
    """

    model_type: ClassVar = "llava"
    title: ClassVar = "Llava"
    pretrained: ClassVar = "llava-hf/llava-1.5-7b-hf"
    left_out: ClassVar = {
        **Family.left_out,
        "llava": {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"},
        "internvl_vision": {"image_size": (448, 448), "patch_size": (14, 14)},
    }
    shapes: ClassVar = {
        # As in the config.json of llava-hf/llava-1.5-7b-hf and -13b-hf.
        "llava-1.5-7b": {
            "vision_config": CLIP_L_336,
            "text_config": VICUNA_7B,
            "image_token_index": 32063,
            "image_seq_length": 576,
        },
        "llava-1.5-13b": {
            "vision_config": CLIP_L_336,
            "text_config": {
                "model_type": "llama",
                "vocab_size": 32064,
                "hidden_size": 5120,
                "intermediate_size": 13824,
                "num_hidden_layers": 40,
                "num_attention_heads": 40,
            },
            "image_token_index": 32063,
            "image_seq_length": 576,
        },
        # The depth and the image of LLaVA-1.5-7B, narrow enough for a CPU.
        "tiny": {
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 5,
                "num_attention_heads": 1,
                "image_size": 96,
                "patch_size": 4,
            },
            "text_config": {
                "model_type": "llama",
                "vocab_size": 128,
                "hidden_size": 64,
                "intermediate_size": 176,
                "num_hidden_layers": 32,
                "num_attention_heads": 2,
            },
            "image_token_index": 127,
            "image_seq_length": 576,
        },
    }

    image_aspect_ratio: str = choice("pad", "crop")
    conv: str = choice("vicuna_v1", "hf")

    @property
    def square(self) -> Square:
        return "pad" if self.image_aspect_ratio == "pad" else "crop"

    def image_tokens(self, config: Any) -> int:
        """Not `image_seq_length`: older checkpoints do not have it, and its default is that of one model."""
        vision = config.vision_config
        if vision.model_type not in CLASS_TOKENS:
            known = ", ".join(CLASS_TOKENS)
            raise ValueError(f"{config.model_type} over {vision.model_type} cannot be pruned: known towers are {known}")
        first = 1 if config.vision_feature_select_strategy == "default" else 0  # dropped, whatever it is
        return patches(vision) + CLASS_TOKENS[vision.model_type] - first

    def merging_layers(self, config: Any) -> int:
        if config.vision_config.model_type not in MERGING_TOWERS or config.vision_feature_select_strategy != "default":
            return 0
        return layers_read(config)

    def tower(self, multimodal: Any) -> Tower | None:
        tokens = self.image_tokens(multimodal.config)
        return read_tower(multimodal, merging=self.merging_layers(multimodal.config), image_tokens=tokens)

    def load_processor(self, pretrained: str, revision: str, config: Any) -> Any:
        from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

        from adaptinfer_eval.backbones.vicuna import use_original_tokens

        processor = super().load_processor(pretrained, revision, config)
        if self.image_aspect_ratio == "pad":
            # Bit for bit the original's expand2square; sizes, mean and std stay the checkpoint's.
            processor.image_processor = LlavaImageProcessorPil.from_pretrained(
                pretrained, revision=revision, do_pad=True
            )
        if self.conv == "vicuna_v1":
            use_original_tokens(processor.tokenizer)
        set_placeholders(processor, config)
        return processor

    def conversation(self, messages: Sequence[Message], processor: Any, end: Callable[[], str]) -> str:
        from adaptinfer_eval.backbones.vicuna import vicuna_v1

        if self.conv == "hf":
            return super().conversation(messages, processor, end)
        return vicuna_v1(messages, processor.image_token, end())

    def spelled(self, text: str, processor: Any) -> str:
        from adaptinfer_eval.backbones.vicuna import marked

        return text if self.conv == "hf" else marked(text, processor.image_token, processor.tokenizer)


def set_placeholders(processor: Any, config: Any) -> None:
    """As many as the model makes features, whether the processor's own file says how many or not."""
    processor.patch_size, _ = pair(config.vision_config.patch_size)
    processor.num_additional_image_tokens = CLASS_TOKENS[config.vision_config.model_type]
    processor.vision_feature_select_strategy = config.vision_feature_select_strategy


def read_tower(multimodal: Any, **more: Any) -> Tower | None:
    """A tower of which a projector reads the patches of one layer; None where it reads others, or several layers."""
    config, model = multimodal.config, multimodal.vision_tower
    classes, read = CLASS_TOKENS[config.vision_config.model_type], layers_read(config)
    if not read or classes != (config.vision_feature_select_strategy == "default"):
        return None
    more |= {"class_tokens": classes}
    if config.vision_config.model_type == "internvl_vision":
        more |= {"attention": "attention"}
    return stacked(model, layers_of(model), read - 1, multimodal.multi_modal_projector, **more)


def layers_read(config: Any) -> int:
    """Layers of the vision tower up to the one whose output is read; 0 where several are."""
    read = getattr(config, "vision_feature_layer", None)
    if not isinstance(read, int):
        return 0
    # hidden_states[0] is the embedding, hidden_states[i] the output of layer i - 1.
    return read if read >= 0 else int(config.vision_config.num_hidden_layers) + 1 + read
