"""Vision towers, as the engine wants them: where their layers are, and which patches a vision token is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

CLIP = "clip_vision_model"
MERGING_TOWERS = (CLIP,)
"""Vision towers that merge tokens: what reads them has to take any number of tokens."""
Grid = tuple[int, ...]
"""Rows and columns of an image's patches, or tokens; before them the frames of a video."""


@dataclass(frozen=True)
class Tower:
    """A vision tower. Images lie in it side by side, (I, patches, C), or `packed`, one behind the other.

    `layers`: all that there are; `read`: the one whose output the `projector` gets, None for a tower alone.
    `attention`: a layer's module of that kind, by name. `arguments`: of a forward of `model`, in order; from them
    `grids` of the patches of each image, and `order`: the place that each row has in the images, (patches of all,),
    where the tower takes them in another.
    `class_tokens`: rows before the patches of an image. `side`: a token is made of side × side patches; `in_blocks`:
    they follow each other in the tower; `pooled`: by their mean, else side by side. `shuffled`: the projector is given
    tokens, not patches. `projects`: what it makes of rows such as tokens are made of, (…, C), where it takes others.
    `tile`: the grid of tokens that each has where an image may be several here, one behind the other in the decoder.
    `merging`: layers that can merge tokens, those up to the one that is read; `image_tokens`: of each image there.
    """

    model: nn.Module
    layers: Sequence[nn.Module]
    read: int
    projector: nn.Module | None
    grids: Callable[[Mapping[str, Any]], list[Grid]]
    order: Callable[[Mapping[str, Any]], Tensor | None] = lambda _: None
    arguments: tuple[str, ...] = ("pixel_values",)
    attention: str = "self_attn"
    packed: bool = False
    class_tokens: int = 0
    side: int = 1
    in_blocks: bool = False
    pooled: bool = False
    shuffled: bool = False
    projects: Callable[[Tensor], Tensor] | None = None
    tile: Grid | None = None
    merging: int = 0
    image_tokens: int = 0

    @property
    def gives_class(self) -> bool:
        """Whether it has a class token, and that is a row such as the projector takes."""
        return self.class_tokens > 0 and (self.side == 1 or self.pooled)

    def token_grid(self, grid: Grid) -> Grid:
        """Of an image's tokens, from that of its patches."""
        return (*grid[:-2], grid[-2] // self.side, grid[-1] // self.side)

    def grouped(self, patches: Tensor, grid: Grid) -> Tensor:
        """`patches` (P, …) of an image as its tokens', (N, patches of a token, …)."""
        side, rest = self.side, patches.shape[1:]
        if side == 1 or self.in_blocks:
            return patches.reshape(-1, side**2, *rest)
        rows, columns = self.token_grid(grid)[-2:]
        blocks = patches.reshape(-1, rows, side, columns, side, *rest).transpose(2, 3)
        return blocks.reshape(-1, side**2, *rest)

    def project(self, rows: Tensor) -> Tensor:
        """Rows such as the projector makes tokens of, (…, C) → (…, D), float32."""
        # Its forward, past the hooks of those who watch it.
        projector: Any = self.projector
        weight = next(projector.parameters())
        projects = self.projects or projector.forward
        device = rows.device if weight.is_meta else weight.device  # off-loaded weights come to the rows
        return projects(rows.to(device, weight.dtype)).to(rows.device).float()


def stacked(model: nn.Module, layers: Sequence[nn.Module], read: int, projector: Any, **more: Any) -> Tower:
    """A tower of square patches in which images of one size lie side by side."""
    config: Any = model.config
    high, wide = pair(config.patch_size)

    def grids(named: Mapping[str, Any]) -> list[Grid]:
        images, _, height, width = named["pixel_values"].shape
        return [(height // high, width // wide)] * images

    return Tower(model, layers, read, projector, grids, **more)


def layers_of(model: Any) -> list[nn.Module]:
    """The layers of a tower whose encoder has them."""
    encoder = getattr(model, "vision_model", model).encoder  # older releases nest the encoder once more
    return list(encoder.layers if hasattr(encoder, "layers") else encoder.layer)


def clip_tower(model: Any, merging: int) -> Tower:
    """A CLIPVisionModel alone, whose first `merging` layers can merge tokens."""
    tokens = (model.config.image_size // model.config.patch_size) ** 2
    layers = layers_of(model)
    return stacked(model, layers, merging - 1, None, class_tokens=1, merging=merging, image_tokens=tokens)


def pair(size: Any) -> tuple[int, int]:
    """Height and width, where configurations name one number for both."""
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)
