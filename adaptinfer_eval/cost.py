"""What a method costs on paper: tokens and FLOPs, from shapes alone. Plain numbers, no torch.

AdaptInfer (arXiv 2508.06084) Eq. 5: one decoder layer over n tokens, hidden size d, intermediate size m, takes
4nd² + 2n²d + 3ndm multiply-adds. The papers print these as "FLOPs"; a FLOP counter finds twice as many.
`prefill_flops` is what such a counter finds in a real prefill, with grouped-query attention and the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptinfer_eval.methods.schedule import mean_count

if TYPE_CHECKING:
    from adaptinfer_eval.methods.method import Method


@dataclass(frozen=True)
class Audit:
    """The cost of one prefill.

    `entering`, `leaving`: vision tokens of the prompt per layer, mean over layers; `entering_per_image`,
    `leaving_per_image`: of each of its `images`; `entering_share`, `leaving_share`: of the `vision_tokens` that it came
    with. `macs`: multiply-adds of all decoder layers by Eq. 5, what the papers call FLOPs. `flops` = 2 × macs.
    `schedule`: what the method does, `1:133,10:27,20:3`.
    """

    schedule: str
    entering: float
    leaving: float
    macs: float
    vision_tokens: int
    images: int = 1

    @property
    def entering_per_image(self) -> float:
        return self.entering / self.images

    @property
    def leaving_per_image(self) -> float:
        return self.leaving / self.images

    @property
    def entering_share(self) -> float:
        return self.entering / self.vision_tokens

    @property
    def leaving_share(self) -> float:
        return self.leaving / self.vision_tokens

    @property
    def flops(self) -> float:
        return 2 * self.macs


TEXT_BEFORE = 35
"""Text tokens before the image: the system prompt of LLaVA-1.5's conversations (vicuna_v1)."""


def layer_macs(computed: float, attended: float, hidden_size: int, intermediate_size: int) -> float:
    """Multiply-adds of one decoder layer that computes `computed` tokens, each attending to `attended`, Eq. 5 and 7."""
    d, m = hidden_size, intermediate_size
    return 4 * computed * d * d + 2 * computed * attended * d + 3 * computed * d * m


def prefill_macs(tokens_per_layer: Sequence[float], hidden_size: int, intermediate_size: int) -> float:
    """Multiply-adds of the decoder layers when `tokens_per_layer[i]` tokens (vision and text) enter layer i, Eq. 5.

    Attention is counted as the paper does, without the saving of causality; neither lm_head nor vision tower is in it.
    """
    return sum(layer_macs(n, n, hidden_size, intermediate_size) for n in tokens_per_layer)


def decode_macs(cached_per_layer: Sequence[float], hidden_size: int, intermediate_size: int) -> float:
    """Multiply-adds of one decode step when layer i attends to `cached_per_layer[i]` tokens, Eq. 7."""
    return sum(layer_macs(1, n, hidden_size, intermediate_size) for n in cached_per_layer)


@dataclass(frozen=True)
class Decoder:
    """A decoder's shape: what Eq. 5 knows of it, its attention heads, and the size of its vocabulary."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any) -> Decoder:
        """From a Hugging Face text configuration."""
        heads = config.num_attention_heads
        return cls(
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_heads=heads,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            vocabulary=config.vocab_size,
        )


def prefill_flops(method: Method, decoder: Decoder, *, vision_tokens: int, text_before: int, text_after: int) -> float:
    """FLOPs (two per multiply-add) of all matrix products in one pruned prefill, as torch's FlopCounterMode finds them.

    Decoder layers with their real heads, attention rows for the scores, what a look-ahead projects for nothing, and
    lm_head for one token. Attention is counted over the whole square, as counters do. Left out, each below 0.1 % of
    LLaVA-1.5's prefill: what a method does with the rows (`score`, `prepare`, `merge`), and all that is no matrix
    product. The vision tower is not in it.
    """
    d, queries = decoder.hidden_size, decoder.num_heads * decoder.head_size
    keys = decoder.num_kv_heads * decoder.head_size
    lengths = [n + text_before + text_after for n in method.entering(decoder.num_layers, vision_tokens)]
    weights = d * (2 * queries + 2 * keys + 3 * decoder.intermediate_size)
    macs = sum(n * weights + 2 * n * n * queries for n in lengths) + d * decoder.vocabulary
    if inside := method.inside(decoder.num_layers):
        last = {"none": 0, "last": 1}.get(inside.queries, text_after)
        for stage in inside.plan(decoder.num_layers, lengths[0] - text_before - text_after):
            before, after = lengths[stage.layer], lengths[stage.layer + 1]
            rows = before - text_before if inside.queries == "all" else last
            macs += rows * before * queries
            if inside.looks_ahead:  # the next layer takes over the keys of the tokens that go on
                macs += rows * d * queries + (before - after) * d * keys
    return 2 * macs


def audit(
    method: Method,
    *,
    num_layers: int,
    hidden_size: int,
    intermediate_size: int,
    vision_tokens: int,
    text_tokens: int,
    images: int = 1,
) -> Audit:
    """What `method` costs on a prompt of `vision_tokens` (of all its `images`) + `text_tokens` (before and after them).

    Raises ValueError where the method's budget or schedule does not fit the model or, with more tokens than there are,
    the prompt.
    """
    entering = method.entering(num_layers, vision_tokens, images)
    inside = method.inside(num_layers)
    if inside is not None and (excess := inside.excess(entering[0])):
        raise ValueError(excess)
    return Audit(
        schedule=method.describe(num_layers, vision_tokens, images),
        entering=mean_count(entering, "entering"),
        leaving=mean_count(entering, "leaving"),
        macs=prefill_macs([n + text_tokens for n in entering], hidden_size, intermediate_size),
        vision_tokens=vision_tokens,
        images=images,
    )
