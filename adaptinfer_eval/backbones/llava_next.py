"""LLaVA-NeXT (1.6) and LLaVA-OneVision: an image is shown whole and in tiles, as many as its shape asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptinfer_eval.backbones.family import Family
from adaptinfer_eval.backbones.llava import CLIP_L_336, VICUNA_7B, read_tower, set_placeholders
from adaptinfer_eval.backbones.options import choice, number
from adaptinfer_eval.backbones.towers import Tower

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LlavaNext(Family):
    """LLaVA-NeXT over Vicuna, Mistral or Llama 3.

    `packing`: "spatial_unpad" is the model's own: of the tiles, what shows padding is left out, and every row of tokens
    ends in one that marks it. "flat" is how the papers count: 576 tokens of the whole image and of each of its tiles,
    2880 of a square one, none left out and none added; a mark less in what the model was trained on. Methods that look
    at the vision tower need it: what it shows is of whole tiles, which share an image's budget equally.
    """

    model_type: ClassVar = "llava_next"
    title: ClassVar = "LlavaNext"
    pretrained: ClassVar = "llava-hf/llava-v1.6-vicuna-7b-hf"
    decoders: ClassVar = ("llama", "mistral")
    any_size: ClassVar = True
    image_inputs: ClassVar = {"pixel_values": "images", "image_sizes": "images"}
    left_out: ClassVar = {
        **Family.left_out,
        "llava_next": {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"},
    }
    shapes: ClassVar = {
        # As in the config.json of llava-hf/llava-v1.6-vicuna-7b-hf.
        "llava-next-7b": {
            "vision_config": CLIP_L_336,
            "text_config": VICUNA_7B,
            "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
            "image_token_index": 32000,
        },
    }

    packing: str = choice("spatial_unpad", "flat")

    def tower(self, multimodal: Any) -> Tower | None:
        vision = multimodal.config.vision_config
        side = int(vision.image_size // vision.patch_size)
        return read_tower(multimodal, tile=(side, side))

    @property
    def encodes(self) -> bool:
        return self.packing == "flat"

    @classmethod
    def of(cls, model: Any) -> LlavaNext:
        return cls(packing="spatial_unpad" if model.model.image_newline is not None else "flat")

    @classmethod
    def measured(cls, model: Any) -> Any:
        """Without the tokens that end rows: 2880 of a square image, as the papers count."""
        model.model.image_newline = None
        return model

    def image_tokens(self, config: Any) -> int:
        return _square(config, marks=self.packing != "flat")

    def load_processor(self, pretrained: str, revision: str, config: Any) -> Any:
        processor = super().load_processor(pretrained, revision, config)
        set_placeholders(processor, config)
        if self.packing == "flat":
            from transformers import LlavaNextProcessor

            class Flat(LlavaNextProcessor):
                def _get_unpadded_features(
                    self, _h: int, _w: int, high: int, wide: int, rows: int, columns: int
                ) -> Any:
                    return high * rows * wide * columns, 0

            processor.__class__ = Flat
        return processor

    def encode(self, model: Any, images: Mapping[str, Tensor]) -> Any:
        if self.packing != "flat":
            return super().encode(model, images)
        import torch
        from transformers.modeling_outputs import BaseModelOutputWithPooling
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        config, inner = model.config, model.model
        side = config.vision_config.image_size
        tiles = [image_size_to_num_patches(size, config.image_grid_pinpoints, side) for size in images["image_sizes"]]
        pixels = torch.cat([own[:count] for own, count in zip(images["pixel_values"], tiles, strict=True)])
        hidden = inner.vision_tower(pixels, output_hidden_states=True).hidden_states[config.vision_feature_layer]
        if config.vision_feature_select_strategy == "default":
            hidden = hidden[:, 1:]
        features = inner.multi_modal_projector(hidden).split(tiles)
        of_images: Any = [own.flatten(0, 1) for own in features]
        return BaseModelOutputWithPooling(pooler_output=of_images)

    def random_images(self, config: Any, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        return _random_squares(config, count, generator)


@dataclass(frozen=True, kw_only=True)
class LlavaOneVision(Family):
    """LLaVA-OneVision: one image of a prompt is shown in tiles, several are each shown whole.

    The frames of a prompt's videos are one image. `frames`: of a video, evenly spaced.
    """

    model_type: ClassVar = "llava_onevision"
    title: ClassVar = "LlavaOneVision"
    pretrained: ClassVar = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
    decoders: ClassVar = ("qwen2",)
    any_size: ClassVar = True
    image_inputs: ClassVar = {
        "pixel_values": "images",
        "image_sizes": "images",
        "batch_num_images": "prompts with images",
        "pixel_values_videos": "videos",
    }
    apart: ClassVar = True  # several images of a prompt are shown without tiles
    repeats_frames: ClassVar = True
    alike: ClassVar = True
    unseen: ClassVar = "its tokens are not the tower's: they are resized, padding is left out and rows are marked"

    frames: int = number(16, "a whole number of frames")

    @property
    def video_frames(self) -> int:
        return self.frames

    def image_tokens(self, config: Any) -> int:
        return _square(config, marks=True)

    def vision_ids(self, config: Any) -> tuple[int, ...]:
        return (config.image_token_id, config.video_token_id)

    def random_images(self, config: Any, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        squares = _random_squares(config, count, generator)
        return {**squares, "batch_num_images": squares["image_sizes"].new_ones(count)}


def _square(config: Any, marks: bool) -> int:
    """Vision tokens of a square image, whole and in 2 × 2 tiles, with those that mark rows or without."""
    side = int(config.vision_config.image_size // config.vision_config.patch_size)
    return 5 * side**2 + (2 * side if marks else 0)


def _random_squares(config: Any, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Each whole and in 2 × 2 tiles."""
    import torch

    side = config.vision_config.image_size
    return {
        "pixel_values": torch.rand(count, 5, 3, side, side, generator=generator),
        "image_sizes": torch.tensor([[2 * side, 2 * side]] * count),
    }
