"""The decoder's rotary embedding, called again for the tokens that are left: it takes positions, and nothing is known
here of what it makes of them."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adaptinfer_eval.methods.seen import Rotary
from adaptinfer_eval.pruning.masks import pattern_of
from adaptinfer_eval.pruning.positions import closed_up, numbered
from adaptinfer_eval.pruning.sequence import Segment


class Places:
    """Positions of one prompt batch, from its prefill through its decode steps.

    `whole` (1 or B, L), or with an axis more in front: those that the model gave to the prompts, `first`. `start`:
    where it begins to count on a single axis.
    """

    def __init__(self, rule: Literal["keep", "renumber"], whole: Tensor, first: Segment, start: int) -> None:
        self.rule, self.whole, self.first, self.start = rule, whole, first, start
        self._closed_up: dict[int, Tensor] = {}

    def of_rows(self, rows: Tensor) -> Places:
        """The same of the samples `rows` (R,) alone."""
        whole = self.whole if self.whole.shape[-2] == 1 else self.whole[..., rows, :]
        picked = Places(self.rule, whole, self.first.of_rows(rows), self.start)
        picked._closed_up = {number: moved[rows] for number, moved in self._closed_up.items()}
        return picked

    def of(self, left: Segment) -> Tensor:
        """Positions of the tokens that are `left` of the prompts, as the rule has them."""
        return numbered(self.rule, self.whole, self.first.to(left.ids.device), left, self.start)

    def after(self, number: int, left: Segment, step: int, now: Tensor) -> Tensor:
        """Of the token that decode step `step` adds to segment `number`, numbered anew.

        The number of real tokens that are before it there; or, where positions have several axes, the model's own,
        `now` (axes, B, 1), moved down by what was closed up.
        """
        if now.ndim == 2:
            return left.positions(step, self.start)
        if number not in self._closed_up:
            self._closed_up[number] = closed_up(self.whole, self.first.to(left.ids.device), left, now)
        return now - self._closed_up[number].to(now.device)


class Rotation:
    """Follows the rotary embedding of the decoder `text`; `now`: the positions that the model rotated with last."""

    def __init__(self, text: Any) -> None:
        self.text = text
        self.by_type = False
        self.now: Tensor | None = None

    def hook(self) -> RemovableHandle:
        handle: RemovableHandle = self.text.rotary_emb.register_forward_pre_hook(self._before, with_kwargs=True)
        return handle

    def _before(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = {**dict(zip(("x", "position_ids", "layer_type"), args, strict=False)), **kwargs}
        self.now, self.by_type = named["position_ids"], named.get("layer_type") is not None

    def kind(self, layer: int) -> str | None:
        """The type of `layer`, where the model rotates by it (Gemma 3)."""
        return pattern_of(self.text.config, layer) if self.by_type else None

    def __call__(self, like: Tensor, positions: Tensor, kind: str | None) -> Rotary:
        """cos and sin in the type and on the device of `like`."""
        more = {} if kind is None else {"layer_type": kind}
        cos, sin = self.text.rotary_emb(like, position_ids=positions, **more)
        return cos.to(like.device), sin.to(like.device)
