"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: positions on three axes, and as many vision tokens as an image has pixels for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adaptinfer_eval.backbones.family import Family
from adaptinfer_eval.backbones.messages import Message, checkpoint_template
from adaptinfer_eval.backbones.options import choice, number, number_or_none
from adaptinfer_eval.backbones.towers import Grid as Patches
from adaptinfer_eval.backbones.towers import Tower

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SIDE = 32
"""Vision tokens along a side of a usual image: 896 pixels of Qwen2-VL and Qwen2.5-VL, 1024 of Qwen3-VL."""
_IDS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}
_QWEN2_7B = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}


@dataclass(frozen=True, kw_only=True)
class Grid(Family):
    """What they share with others: an image in patches, as many as it has room for.

    `min_pixels`, `max_pixels`: an image is resized to have no fewer and no more; None: as the checkpoint says.
    """

    any_size: ClassVar = True
    image_inputs: ClassVar = {"pixel_values": "image tokens", "image_grid_thw": "images"}

    min_pixels: int | None = number_or_none("a whole number of pixels")
    max_pixels: int | None = number_or_none("a whole number of pixels")

    def image_tokens(self, config: Any) -> int:
        return _SIDE**2

    def tower(self, multimodal: Any) -> Tower | None:
        """Images lie one behind the other, and a token's patches, too."""
        visual, layers = multimodal.visual, list(multimodal.visual.blocks)
        side, merger = visual.spatial_merge_size, visual.merger

        def projects(rows: Tensor) -> Tensor:
            projected: Tensor = merger.forward(rows.reshape(-1, rows.shape[-1] // side**2))
            return projected.view(*rows.shape[:-1], -1)

        return Tower(
            visual,
            layers,
            len(layers) - 1,
            merger,
            _grids,
            projects=projects,
            order=self.order(visual),
            attention="attn",
            arguments=("hidden_states", "grid_thw"),
            packed=True,
            side=side,
            in_blocks=True,
        )

    def order(self, visual: Any) -> Callable[[Mapping[str, Any]], Tensor | None]:
        """See `Tower.order`."""
        return lambda _: None

    def load_processor(self, pretrained: str, revision: str, config: Any) -> Any:
        processor = super().load_processor(pretrained, revision, config)
        for size, times in self.sizes(processor):
            size["shortest_edge"] = (self.min_pixels or 0) * times or size["shortest_edge"]
            size["longest_edge"] = (self.max_pixels or 0) * times or size["longest_edge"]
            if size["shortest_edge"] > size["longest_edge"]:
                raise ValueError(
                    f"min_pixels={size['shortest_edge']} is more than max_pixels={size['longest_edge']}: give both"
                )
        return processor

    def token_types(self, is_image: Tensor) -> Mapping[str, Tensor]:
        return {"mm_token_type_ids": is_image.long()}

    def sizes(self, processor: Any) -> list[tuple[Any, int]]:
        """What bounds the pixels of images and videos in a processor, and how often a pixel is counted there."""
        return [(processor.image_processor.size, 1)]

    def random_images(self, config: Any, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        import torch

        vision = config.vision_config
        side = _SIDE * vision.spatial_merge_size
        channels = getattr(vision, "in_channels", 3) * vision.temporal_patch_size * vision.patch_size**2
        return {
            "pixel_values": torch.randn(count * side**2, channels, generator=generator),
            "image_grid_thw": torch.tensor([[1, side, side]] * count),
        }


@dataclass(frozen=True, kw_only=True)
class Qwen2VL(Grid):
    """Qwen2-VL. The frames of a prompt's videos are one image: their placeholders are vision tokens, too.

    `frames`: of a video, evenly spaced; two are one step in time. lmms-eval's own model shows 32. `min_pixels` and
    `max_pixels` hold for each frame of a video, too; where the model bounds a video as a whole (Qwen3-VL), it has room
    for `frames` of them.
    """

    model_type: ClassVar = "qwen2_vl"
    title: ClassVar = "Qwen2VL"
    pretrained: ClassVar = "Qwen/Qwen2-VL-7B-Instruct"
    decoders: ClassVar = ("qwen2_vl_text",)
    image_inputs: ClassVar = {
        **Grid.image_inputs,
        "pixel_values_videos": "video tokens",
        "video_grid_thw": "videos",
        "second_per_grid_ts": "videos",
    }

    bounds_videos: ClassVar[bool] = False
    """Whether the processor bounds a video's frames together, not each."""

    frames: int = number(16, "a whole number of frames")

    @property
    def video_frames(self) -> int:
        return self.frames

    def vision_ids(self, config: Any) -> tuple[int, ...]:
        return (config.image_token_id, config.video_token_id)

    def sizes(self, processor: Any) -> list[tuple[Any, int]]:
        return [*super().sizes(processor), (processor.video_processor.size, self.frames if self.bounds_videos else 1)]


@dataclass(frozen=True, kw_only=True)
class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL: frames of a video may be several positions apart."""

    model_type: ClassVar = "qwen2_5_vl"
    title: ClassVar = "Qwen25VL"
    pretrained: ClassVar = "Qwen/Qwen2.5-VL-7B-Instruct"
    decoders: ClassVar = ("qwen2_5_vl_text",)
    shapes: ClassVar = {
        # As in the config.json of Qwen/Qwen2.5-VL-7B-Instruct.
        "qwen2.5-vl-7b": {
            "text_config": _QWEN2_7B,
            "vision_config": {
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "out_hidden_size": 3584,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "window_size": 112,
                "fullatt_block_indexes": [7, 15, 23, 31],
            },
            **_IDS,
        },
    }

    def order(self, visual: Any) -> Callable[[Mapping[str, Any]], Tensor | None]:
        """Most of its layers attend within windows, by which its tokens are sorted."""

        def by_windows(named: Mapping[str, Any]) -> Tensor | None:
            import torch

            grids, unit = named["grid_thw"], visual.spatial_merge_size**2
            if hasattr(visual, "get_window_index"):  # older releases
                tokens, _ = visual.get_window_index(grids)
            else:
                from transformers.vision_utils import get_vision_window_index

                tokens, _ = get_vision_window_index(
                    grids, visual.spatial_merge_size, visual.window_size, visual.patch_size
                )
            patches: Tensor = tokens[:, None] * unit + torch.arange(unit, device=tokens.device)
            return patches.flatten().to(named["hidden_states"].device)

        return by_windows


@dataclass(frozen=True, kw_only=True)
class Qwen3VL(Qwen2VL):
    """Qwen3-VL: its decoder adds more of an image to vision tokens behind its first layers (DeepStack)."""

    model_type: ClassVar = "qwen3_vl"
    title: ClassVar = "Qwen3VL"
    pretrained: ClassVar = "Qwen/Qwen3-VL-8B-Instruct"
    decoders: ClassVar = ("qwen3_vl_text",)
    bounds_videos: ClassVar = True


@dataclass(frozen=True, kw_only=True)
class Qwen35(Qwen2VL):
    """Qwen3.5: three of four layers carry a state instead of attending. Stages are after layers that attend.

    `thinking`: "on" lets it think before it answers, which takes thousands of tokens; a task's own limit cuts it off.
    """

    model_type: ClassVar = "qwen3_5"
    title: ClassVar = "Qwen35"
    pretrained: ClassVar = "Qwen/Qwen3.5-9B"
    decoders: ClassVar = ("qwen3_5_text",)
    hands_on: ClassVar = False
    bounds_videos: ClassVar = True

    thinking: str = choice("off", "on")

    def conversation(self, messages: Sequence[Message], processor: Any, end: Callable[[], str]) -> str:
        return checkpoint_template(messages, processor, enable_thinking=self.thinking == "on")


def _grids(named: Mapping[str, Any]) -> list[Patches]:
    """Of images, and of videos with their frames in front."""
    grids: list[list[int]] = named["grid_thw"].tolist()
    return [tuple(grid) if grid[0] > 1 else (grid[1], grid[2]) for grid in grids]
