"""What a vision tower shows of images, and what a method that works before the decoder answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Look:
    """What a method asks to see beside the features of an image: layers of the tower, numbered from 0.

    `attention`, `received`, `keys`, `queries`: see `Images`. Only what is asked for is computed, beside the tower's own
    attention. `hidden`: what the projector makes tokens of, and the class token. `text`: the prompt's text embeddings.
    `question`: what the user asked, in words. `clip`: that the tower is CLIP's, whose text tower is read beside it.
    """

    hidden: bool = True
    attention: Sequence[int] = ()
    received: Sequence[int] = ()
    keys: Sequence[int] = ()
    queries: Sequence[int] = ()
    text: bool = False
    question: bool = False
    clip: bool = False

    @property
    def tower(self) -> bool:
        """Whether it is anything of the tower."""
        return self.hidden or bool(self.attention or self.received or self.keys or self.queries)

    @property
    def asked(self) -> bool:
        """Whether it is anything of what is asked; if not, questions of a batch about an image share what goes in."""
        return self.text or self.question


@dataclass(frozen=True)
class Images:
    """Some images with as many tokens each, as the tower and the projector see them. All numbers are float32.

    I images of N tokens, which go into a decoder of width D. A token is what the decoder would be given; where it is
    made of several patches (pixel shuffle, pooling, 2 × 2 mergers), their attention is averaged, and so are keys.

    `projected` (I, N, D): the tokens. `hidden` (I, N, C): what the projector made them of. `cls` (I, C): the tower's
    class token at the layer that is read, None where it has none that the projector would take (which may want several
    patches in a row). Where they are not asked for, `hidden` has no columns, and `cls` is None. `grid`: rows and
    columns of the N tokens, in raster order; before them the frames of a video; None where they are no grid.
    `attention[layer]` (I, heads, N): what the tokens get of the class token's attention (the softmax goes over all
    rows, so it does not sum to 1); without a class token, the mean over all rows. `received[layer]` (I, heads, N): the
    mean over all rows, the class token's too. `keys[layer]` (I, N or 1 + N, heads, head size): as projected, with bias,
    not scaled; the class token's first, where there is one. `queries[layer]` (I, heads, head size): the class token's.
    `text` (I, T, D), `text_mask` (I, T): embeddings of the prompt's text after the image, False on padding.
    `questions`: of each image's prompt.
    `embed`: texts, each tokenized by itself and without special tokens, as the decoder's input embeddings, (tokens, D);
    None where nobody said how texts become tokens.
    `project`: rows such as those of `hidden`, (I, n, C), through the projector: (I, n, D).
    """

    projected: Tensor
    hidden: Tensor
    cls: Tensor | None
    grid: tuple[int, ...] | None
    project: Callable[[Tensor], Tensor]
    attention: Mapping[int, Tensor] = field(default_factory=dict)
    received: Mapping[int, Tensor] = field(default_factory=dict)
    keys: Mapping[int, Tensor] = field(default_factory=dict)
    queries: Mapping[int, Tensor] = field(default_factory=dict)
    text: Tensor | None = None
    text_mask: Tensor | None = None
    questions: Sequence[str] = ()
    embed: Callable[[Sequence[str]], Tensor] | None = None

    @property
    def tokens(self) -> int:
        """N."""
        return self.projected.shape[1]


@dataclass(frozen=True)
class Selection:
    """What goes into the decoder, in this order.

    `index` (I, n) int64: tokens of the image, 0 … N - 1; N, N + 1, … are the rows `made` (I, m, D): merged tokens,
    class tokens, and what else is no token of the image.
    `rows` (I, n, D): what goes in, one for each of `index`, where tokens of the image do not go in as they were (others
    are merged into them); `made` is then left out.
    """

    index: Tensor
    made: Tensor | None = None
    rows: Tensor | None = None


def video_grid(images: Images, method: str) -> tuple[int, int, int]:
    """Frames, rows and columns of videos; ValueError of other images. `method`: its name, for that error."""
    if images.grid is None or len(images.grid) != 3:
        what = "a still image" if images.grid else "tokens that are no whole frames"
        raise ValueError(f"{method} compares the frames of a video, and was given {what}: use another method there")
    frames, rows, columns = images.grid
    return frames, rows, columns
