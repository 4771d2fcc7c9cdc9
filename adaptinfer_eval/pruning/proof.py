"""What a method was to do to a forward is compared with what happened, before an answer is returned.

The witness is the attention function: it cannot be called without the tokens that a layer really computes and the keys
that its cache really holds. Lengths are known on the host, so nothing waits for the device. Whether scores are finite
only the device knows; that is read when the host has to wait anyway, or at the latest when the block ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import transformers
from torch import Tensor, nn


class PruningError(RuntimeError):
    """A model did not do what a method planned: no answer made with it can be trusted."""


@dataclass(frozen=True)
class Lengths:
    """Of each layer, from layer 0 on: the tokens that it computes and the keys that they can look at.

    Those before `start` do not run: what they make is there already.
    """

    computed: Sequence[int]
    cached: Sequence[int]
    start: int = 0


class Proof:
    """Follows the attention modules of `layers`, those of them that are `attending`, through one forward at a time."""

    def __init__(self, layers: Sequence[nn.Module], attending: Sequence[int]) -> None:
        self.layer_of: dict[nn.Module, int] = {attention_of(layers[index]): index for index in attending}
        self.attending = attending
        self.planned: Lengths | None = None
        self.seen: set[int] = set()

    def plan(self, planned: Lengths) -> None:
        """What the next forward is to do."""
        self.planned, self.seen = planned, set()

    def saw(self, module: nn.Module, query: Tensor, key: Tensor, window: int | None) -> None:
        """A layer attends, `query` (B, H, n, size) to `key` (B, H_kv, m, size).

        Of a sliding `window` the cache hands out less than it has seen; `check` asks it.
        """
        index = self.layer_of.get(module)
        if index is None:
            return
        if self.planned is None:
            raise broken("the decoder attends, but its forward was not seen to begin")
        if index < self.planned.start:
            raise broken(f"layer {index} was to be passed over, and attends")
        self.seen.add(index)
        wanted = (self.planned.computed[index], self.planned.cached[index])
        found = (query.shape[2], key.shape[2] if window is None else wanted[1])
        if found != wanted:
            raise broken(
                f"layer {index} was to compute {wanted[0]} tokens over {wanted[1]}, "
                f"and computes {found[0]} over {found[1]}"
            )

    def check(self, cache: Any = None) -> None:
        """At the end of a forward: every layer ran, and `cache`, if there is one, states the lengths planned."""
        planned, self.planned = self.planned, None
        assert planned is not None
        attending = [index for index in self.attending if index < len(planned.computed)]
        if unseen := sorted({index for index in attending if index >= planned.start} - self.seen):
            raise broken(f"the attention of layer {unseen[0]} was not seen")
        for index in attending if cache is not None else ():
            if (stated := cache.get_seq_length(index)) != planned.cached[index]:
                raise broken(f"the cache of layer {index} holds {stated} tokens instead of {planned.cached[index]}")


class Doubts:
    """Whether scores are finite, and choices possible, of `method`; noted on the device, read by `settle`."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.finite: dict[str, Tensor] = {}
        self.denied: dict[str, Tensor] = {}

    def note(self, values: Tensor, where: str) -> None:
        finite = values.isfinite().all()
        self.finite[where] = finite & self.finite[where] if where in self.finite else finite

    def deny(self, wrong: Tensor, why: str) -> None:
        """Where any of `wrong` is True, there can be no answer."""
        found = wrong.any()
        self.denied[why] = found | self.denied[why] if why in self.denied else found

    def settle(self) -> None:
        """Wait for the device. PruningError where a method chose what there is not, or by what is no number."""
        denied, self.denied = self.denied, {}
        if why := next((why for why, wrong in denied.items() if wrong), None):
            raise PruningError(why)
        noted, self.finite = self.finite, {}
        if where := next((where for where, finite in noted.items() if not finite), None):
            raise PruningError(
                f"{self.method}: scores {where} are not finite, so its choice means nothing: the model's own numbers "
                "overflow there, or the method's do; try dtype=bfloat16 or float32"
            )


def attention_of(layer: Any, name: str = "self_attn") -> nn.Module:
    """The attention module of a layer; PruningError where it has another name."""
    if not isinstance(found := getattr(layer, name, None), nn.Module):
        raise broken(f"{type(layer).__name__} has no {name}")
    return found


def broken(what: str) -> PruningError:
    """The error that says `what` is off, and under which release of transformers."""
    return PruningError(
        f"{what}: transformers {transformers.__version__} does not run this model as planned, and what it answers is "
        "not what the method would; use a release that adaptinfer-eval was tested on"
    )
