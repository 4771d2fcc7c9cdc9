"""What tokens receive from the text after the image, layer by layer, of a decoder in which nothing is pruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adaptinfer_eval.pruning.attention import attention_rows
from adaptinfer_eval.pruning.lookahead import LookAhead
from adaptinfer_eval.pruning.prefix import Shared
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.proof import Doubts, attention_of
from adaptinfer_eval.pruning.sequence import Segment, first_segment


@dataclass(frozen=True)
class Received:
    """Attention of one layer that tokens receive from the text after the image: summed over that text and all heads.

    `vision` (B, V): by the prompt's vision tokens; `text` (B, T): by that text itself, which is on the right where
    prompts are unequal. float32, 0 on padding, where `vision_mask` (B, V) and `text_mask` (B, T) are False.
    """

    vision: Tensor
    text: Tensor
    vision_mask: Tensor
    text_mask: Tensor


See = Callable[[int, Received], None]
"""Is shown a layer's number and what tokens received there."""


class Observer:
    """Stands where a `LayerPruner` would, with no stages: sees the attention of all `layers` in every prefill."""

    def __init__(self, layers: Sequence[nn.Module], see: See, doubts: Doubts) -> None:
        self.layer_of = {attention_of(layer): index for index, layer in enumerate(layers)}
        self.see, self.doubts = see, doubts
        self.stages: frozenset[int] = frozenset()
        self.ahead = LookAhead(())
        self.needs_whole_prompts = False
        self.prompt: Prompt | None = None
        self.segment: Segment | None = None

    def hook(self) -> list[RemovableHandle]:
        return []

    def forget(self) -> None:
        """What runs now is not to be seen: decode steps, and prefixes by themselves."""
        self.prompt = self.segment = None

    def begin(self, prompt: Prompt, shared: Shared | None = None) -> None:
        """Get ready for the prefill of `prompt`; of one without an image there is nothing to see."""
        self.forget()
        if any(prompt.vision):
            self.prompt = prompt
            self.segment = first_segment(prompt.is_vision, prompt.valid, prompt.real, prompt.vision)

    def resume(self, _run: None, _cached: int) -> None:
        self.forget()

    def check(self) -> None:
        """Nothing is planned; that every layer attended is proven beside it (proof.py)."""

    def observe(
        self,
        original: Callable[..., Any],
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        kwargs: dict[str, Any],
    ) -> Any:
        """Handler of the model's attention function."""
        if self.prompt is not None and self.segment is not None and module in self.layer_of:
            self.segment = self.segment.to(query.device)
            rows = attention_rows(query, key, max(self.prompt.text_after), self.segment.valid, attention_mask, kwargs)
            layer = self.layer_of[module]
            received = _received(rows, self.prompt, self.segment)
            self.doubts.note(received.vision, f"in layer {layer}")
            self.see(layer, received)
        return original(module, query, key, value, attention_mask, **kwargs)


def _received(rows: Tensor, prompt: Prompt, segment: Segment) -> Received:
    """Column sums of attention `rows` (B, H, T, n). Summed first: only sums are taken apart by kind of token."""
    text_mask, uneven = prompt.text_mask.to(rows.device), len(set(prompt.text_after)) > 1
    by_row = rows.sum(1)
    total = (text_mask[:, None].float() @ by_row)[:, 0] if uneven else by_row.sum(1)
    vision, text = total.gather(1, segment.vision_index), total[:, segment.length - text_mask.shape[1] :]
    if uneven or len(set(prompt.vision)) > 1:
        vision, text = vision * segment.vision_mask, text * text_mask
    return Received(vision, text, segment.vision_mask, text_mask)
