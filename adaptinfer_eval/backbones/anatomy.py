"""Where the parts of a model are, as the engine wants them. Which decoders and towers it works on by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

    from adaptinfer_eval.backbones.towers import Tower

# Decoders whose layers share Llama's call (tried with every method); others may mask images in ways of their own.
ONE_AXIS = ("llama", "mistral", "qwen2", "qwen3")
THREE_AXES = ("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "glm4v_text", "qwen3_5_text")
"""Decoders whose positions have three axes (M-RoPE)."""
BARE = (*ONE_AXIS, "gemma3_text", *THREE_AXES)
"""Decoders that can be pruned by themselves."""


@dataclass(frozen=True)
class Anatomy:
    """`text`: the decoder stack. `multimodal`: the module that gets input_ids and images, None for a bare decoder.

    `tower`: the vision tower, where methods can look at it; `unseen`: why they cannot. `vision_ids`: the ids of the
    placeholders that vision tokens take the place of, the image's first. `image_tokens`: how many of them are an image,
    where all images have as many (InternVL: an image is a tile); 0 where they have not: those that stand side by side
    are one, and so are all frames of a prompt's videos.
    `alike`: several images of one prompt have as many each.
    `in_rows`: a token between them sets the rows of an image apart; another one ends it.
    `first_position`: of a prompt's first token.
    `follows`: arguments of the multimodal module, (B, L), of which `masks` (`create_masks_for_generate` of a model of
    transformers) makes masks in which tokens of an image see each other whatever their order.
    """

    text: PreTrainedModel | None
    multimodal: nn.Module | None = None
    tower: Tower | None = None
    unseen: str = ""
    vision_ids: tuple[int, ...] = ()
    image_tokens: int = 0
    alike: bool = False
    in_rows: bool = False
    first_position: int = 0
    follows: tuple[str, ...] = ()
    masks: Callable[..., Any] | None = None

    @property
    def several_axes(self) -> bool:
        """Whether the decoder's positions have more than one axis."""
        return self.text is not None and self.text.config.model_type in THREE_AXES

    @property
    def no_place(self) -> str:
        """Why tokens that are none of the prompt's have no place in it; empty where they have."""
        if self.several_axes:
            return "this model's positions have several axes, on which such a token has no place"
        if self.follows:
            return "in this model an image's tokens see each other, among which such a token has no place"
        return ""

    @property
    def shares_prefixes(self) -> bool:
        """Whether what prompts begin with alike can be computed layer by layer, by causal attention alone."""
        return not (self.several_axes or self.follows or hasattr(self.text, "_deepstack_process"))

    @property
    def attending(self) -> list[int]:
        """The layers that attend: others may carry a state instead (linear attention)."""
        types = getattr(getattr(self.text, "config", None), "layer_types", None) or ()
        return [i for i in range(len(self.layers)) if "linear_attention" not in types[i : i + 1]]

    @property
    def layers(self) -> list[nn.Module]:
        return [] if self.text is None else list(self.text.layers)  # type: ignore[arg-type]

    def is_vision(self, input_ids: Tensor) -> Tensor:
        """Where vision tokens stand, bool (B, L), in `input_ids` (B, L)."""
        return (input_ids == self.vision_ids[0]) | self.is_video(input_ids)

    def images(self, input_ids: Tensor) -> Tensor:
        """How many images prompts have, (B,), where their numbers of tokens do not tell: a prompt's videos are one."""
        return self._ends(input_ids).sum(1) + self.is_video(input_ids).any(1)

    def image_numbers(self, input_ids: Tensor) -> Tensor:
        """Which image of its prompt each vision token is of, (B, L); the videos' after all others."""
        ends = self._ends(input_ids)
        before = ends.cumsum(1) - ends.long()
        return before.masked_fill(self.is_video(input_ids), 0) + self.is_video(input_ids) * ends.sum(1, keepdim=True)

    def _ends(self, input_ids: Tensor) -> Tensor:
        """Where an image's last token stands, bool (B, L)."""
        still = input_ids == self.vision_ids[0]
        behind = input_ids.roll(-1, 1)
        ends = still & ~still.roll(-1, 1)
        ends[:, -1] = still[:, -1]
        if self.in_rows:  # what is behind the last row of all ends an image
            last = input_ids.shape[1] - 1 - still.flip(1).byte().argmax(1, keepdim=True)
            ends = ends & (behind == behind.gather(1, last))
        return ends

    def is_video(self, input_ids: Tensor) -> Tensor:
        """Where those of videos stand, bool (B, L)."""
        found = input_ids.new_zeros(input_ids.shape).bool()
        for video in self.vision_ids[1:]:
            found = found | (input_ids == video)
        return found
