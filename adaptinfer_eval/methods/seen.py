"""What a method gets to see: embeddings, attention rows, and what else of a layer it asks for.

And what methods and engine do alike with tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Rotary = tuple[Tensor, Tensor]
"""cos and sin, each (B or 1, tokens, head size)."""


@dataclass(frozen=True)
class Tokens:
    """What there is for each token: `vision` (B, V, D); `text` (B, T, D), of the text after the image.

    `vision_mask` (B, V) and `text_mask` (B, T) are False on padding.
    """

    _all: Tensor
    _vision_index: Tensor
    vision_mask: Tensor
    text_mask: Tensor

    @property
    def vision(self) -> Tensor:
        return gather_tokens(self._all, self._vision_index)

    @property
    def text(self) -> Tensor:
        return self._all[:, self._all.shape[1] - self.text_mask.shape[1] :]


class Embeddings(Tokens):
    """Input embeddings before layer 0."""


@dataclass(frozen=True)
class Attention:
    """What a stage sees of its layer: softmaxed attention over the whole sequence, float32, 0 on padding.

    `to_vision` (B, H, R, V): query rows onto vision tokens; `to_text` (B, H, R, T): onto the text after the image.
    The R rows are that text (R = T), the prompt's last token (R = 1), or none, as the method's `queries` says.
    `vision_mask` (B, V) is False on padding. `prepared`: what the method's `prepare` returned. `keep` (B, 1): how many
    of the vision tokens go on.

    What the method `looks_at`, None else: `keys`, rotated, the key heads of a token side by side; hidden states that
    are `entering` and `leaving` the layer. All in the type that the model computes in.
    """

    to_vision: Tensor
    to_text: Tensor
    vision_mask: Tensor
    prepared: Tensor | None
    keep: Tensor
    keys: Tokens | None
    entering: Tokens | None
    leaving: Tokens | None
    _rotary: Callable[[], tuple[Rotary, Rotary]]
    _numbers: Callable[[], Tensor]
    _places: Callable[[], tuple[Tensor, Tensor]]
    _among: Callable[[], Iterator[Tensor]] | None
    _norm: Callable[[Tensor], Tensor]

    def among_vision(self) -> Iterator[Tensor]:
        """The vision tokens' own rows onto vision tokens, some rows at a time, (B, H, some, V), 0 on padding.

        ValueError unless the method's `queries` are "all".
        """
        if self._among is None:
            raise ValueError("the vision tokens' own rows are shown to methods that say queries = 'all'")
        return self._among()

    def numbers(self) -> Tensor:
        """Which of the prompt's vision tokens these are, (B, V) int64: their places in `Embeddings.vision`.

        Merged tokens are numbered on from the tokens there; on padding it is any token's number.
        """
        return self._numbers()

    def places(self) -> tuple[Tensor, Tensor]:
        """Where vision tokens (B, V) and text (B, T) are in their own prompt, which begins with 0 and has no padding.

        On padding, and of merged tokens, it is any token's place.
        """
        return self._places()

    def rotary(self) -> tuple[Rotary, Rotary]:
        """(cos, sin) of the query rows, (B, R, head size), and of the vision tokens, (B, V, head size), float32."""
        return self._rotary()

    def norm(self, hidden: Tensor) -> Tensor:
        """Hidden states (B, n, D) through the norm behind the model's last layer."""
        return self._norm(hidden)


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """`tokens` (B or 1, n, D) at `index` (B, m) → (B, m, D)."""
    return tokens.expand(len(index), -1, -1).gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def cosines(tokens: Tensor, others: Tensor | None = None) -> Tensor:
    """Cosine of each of `tokens` (…, n, D) with each of `others` (…, m, D), of all two of them if left out: (…, n, m).

    Summed in double precision: in single, products of matrices round differently in a batch than alone, and choices
    that are close come out differently.
    """
    unit = F.normalize(tokens.double(), dim=-1)
    other = unit if others is None else F.normalize(others.double(), dim=-1)
    return (unit @ other.transpose(-2, -1)).float()


def highest(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest scores of each row, (B, n) → (B, count), from the highest on.

    Equal ones in their order, which `topk` leaves to chance: a row would get others in a batch than alone.
    """
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count]


def per_sample(counts: Sequence[float], device: torch.device) -> Tensor:
    """Numbers, one per sample, as (B, 1), without waiting for the device."""
    if len(set(counts)) == 1:
        return torch.full((len(counts), 1), counts[0], device=device)
    return from_host(torch.tensor(counts), device)[:, None]


def from_host(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor that was made on the CPU, on `device`, without waiting for it."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def draw_lots(seed: int, tokens: int, device: torch.device) -> Tensor:
    """A lot in 0 … 1 for each of `tokens` vision tokens, (1, tokens): the same for all samples, whatever the device."""
    lots = torch.rand(tokens, generator=torch.Generator().manual_seed(seed))
    return per_sample(lots.tolist(), device).T
