"""Until its first stage a method computes what every other one does: those layers run once for a batch.

The decoder's own forward stays in charge. The layers that one method has run are passed over for the next: they hand on
the same hidden states, and the next method's cache gets the same keys and values.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from adaptinfer_eval.pruning.language import LayerPruner
from adaptinfer_eval.pruning.prefix import Shared
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.proof import Doubts, attention_of
from adaptinfer_eval.pruning.releases import cache_of

OTHER = "trunk= is of another batch: give every batch a Trunk of its own"


@dataclass(frozen=True)
class Looked:
    """What the attention function of a layer was given: `query` (B, H, T, size) of the last T tokens, and for these
    the `mask`; `given`: its other arguments."""

    query: Tensor
    mask: Tensor | None
    given: Mapping[str, Any]


@dataclass
class Trunk:
    """What the first layers of a decoder made of one batch, for methods that first prune behind one of them.

    Give it to `pruned` for one method after the other, in the order of their first stages, always with the same batch.
    It grows by the layers that a method needs and it has not: `keys`, `values` (B, H_kv, n, size) of each. Of the last
    one only, `looked`; `leaving` (B, n, D), what it and the one below hand on; and, where a prefix is shared,
    what they made of that (`prefix`). `batch`, `ids` (B, L), `sums` (B, D): what tells one batch from another.
    """

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    leaving: dict[int, Tensor] = field(default_factory=dict)
    looked: Looked | None = None
    prefix: tuple[Tensor, Tensor] | None = None
    batch: Any = None
    ids: Tensor | None = None
    sums: Tensor | None = None

    @property
    def height(self) -> int:
        """Layers that are in it."""
        return len(self.keys)

    @property
    def bytes(self) -> int:
        """Memory that it holds: keys and values of its layers, and no more than two hidden states beside them."""
        looked = () if self.looked is None else (self.looked.query, self.looked.mask)
        held = (*self.keys, *self.values, *self.leaving.values(), *(self.prefix or ()), *looked)
        return sum(part.numel() * part.element_size() for part in held if part is not None)


class Climb:
    """One method's way up a trunk: past the layers that are in it, and on through those up to `last`, its first stage.

    Those it leaves in the trunk, unless they are all `layers` there are: nobody could go on from there. `pruner`: is
    shown the attention of the last one all the same; None where nothing is pruned.
    """

    def __init__(self, trunk: Trunk, layers: Sequence[nn.Module], pruner: LayerPruner | None, doubts: Doubts) -> None:
        self.trunk, self.layers, self.pruner, self.doubts = trunk, layers, pruner, doubts
        self.last = min(pruner.stages if pruner else (), default=len(layers) - 1)
        self.grows = self.last + 1 < len(layers)
        self.cache: Any = None  # of the prefill that climbs
        self.prefix: tuple[Tensor, Tensor] | None = None
        # What it adds, all at once when `last` has run: after an error in between, the trunk is as it was.
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.leaving: dict[int, Tensor] = {}
        self.looked: Looked | None = None
        self.text = 0  # tokens at the end of prompts whose queries are kept

    def hook(self) -> list[_Shortcut]:
        """Stand before the layers that may be passed over."""
        layers = self.layers[: self.last + 1 if self.grows else self.trunk.height]
        return [_Shortcut(layer, functools.partial(self._forward, index)) for index, layer in enumerate(layers)]

    def can(self, cache: Any) -> bool:
        """Whether `cache` can be handed keys and values, and the trunk is not too high already."""
        plain = type(cache) is DynamicCache and all(type(layer) is DynamicLayer for layer in cache.layers)
        return plain and self.trunk.height <= self.last + 1

    def begin(self, prompt: Prompt, kwargs: Mapping[str, Any], prefix: Shared | None) -> int:
        """Get ready for the prefill of `prompt` with a decoder's `kwargs`; returns how many layers are passed over."""
        self.cache, self.text = cache_of(kwargs), max(prompt.text_after)
        self.prefix = None if prefix is None else (prefix.hidden, prefix.entering)
        self.leaving = dict(self.trunk.leaving)
        return self.trunk.height

    def same_batch(self, prompt: Prompt, ids: Tensor | None, embeds: Tensor, prefix: int) -> None:
        """ValueError where the trunk is of prompts of other lengths; an error later where tokens or images are others.

        `ids` (B, L), where they are known, and `embeds` (B, L, D): of the whole prompts, of which `prefix` tokens are
        shared. Images may have been encoded anew, which on some devices gives other last bits: what differs by no more
        than rounding is the same.
        """
        batch = (tuple(embeds.shape), prefix, tuple(prompt.real), tuple(prompt.vision), tuple(prompt.text_after))
        places = torch.linspace(1, 2, embeds.shape[1], device=embeds.device)  # images in another order are others, too
        sums, trunk = torch.einsum("bld,l->bd", embeds.float(), places), self.trunk
        if trunk.batch is None:
            trunk.batch, trunk.ids, trunk.sums = batch, ids, sums
        if trunk.batch != batch or trunk.sums is None or (trunk.ids is None) != (ids is None):
            raise ValueError(OTHER)
        self.doubts.deny((trunk.sums - sums).abs() > 1e-3 * trunk.sums.abs().amax(), OTHER)
        if trunk.ids is not None and ids is not None:
            self.doubts.deny(trunk.ids != ids, OTHER)

    def open(self, cache: Any, prefix: int) -> tuple[int, tuple[Tensor, Tensor] | None]:
        """What `compute_prefix` begins with; `cache` then holds `prefix` tokens, as its first layer has to say."""
        if self.trunk.height:
            self._fill(cache, 0, prefix)
        return self.trunk.height, self.trunk.prefix

    def end(self) -> None:
        """The prefill is over."""
        self.cache = None

    def saw(self, module: nn.Module, query: Tensor, mask: Tensor | None, given: Mapping[str, Any]) -> None:
        """A layer attends, `query` (B, H, n, size)."""
        index = self.trunk.height + len(self.keys)
        growing = self.cache is not None and self.grows and index <= self.last
        if not growing or module is not attention_of(self.layers[index]):
            return
        kept = mask[..., -self.text :, :].clone() if isinstance(mask, Tensor) and mask.ndim == 4 else mask
        plain = {name: value for name, value in given.items() if not isinstance(value, Tensor)}
        self.looked = Looked(query[:, :, -self.text :].clone(), kept, plain)

    def _forward(self, index: int, original: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """In place of the forward of layer `index`, which is `original`."""
        if self.cache is None:
            return original(*args, **kwargs)
        if index < self.trunk.height:
            return self._passed(index, args[0] if args else kwargs["hidden_states"])
        leaving = original(*args, **kwargs)
        if self.grows:
            self._grow(index, leaving)
        return leaving

    def _grow(self, index: int, leaving: Tensor) -> None:
        """Layer `index`, the next one, has run."""
        filled, trunk = self.cache.layers[index], self.trunk
        self.keys.append(filled.keys)
        self.values.append(filled.values)
        self.leaving = {kept: states for kept, states in self.leaving.items() if kept == index - 1} | {index: leaving}
        if index == self.last:
            trunk.keys, trunk.values = trunk.keys + self.keys, trunk.values + self.values
            trunk.leaving, trunk.looked, trunk.prefix = self.leaving, self.looked, self.prefix
            self.keys, self.values = [], []

    def _passed(self, index: int, hidden: Tensor) -> Tensor:
        """What layer `index` handed on, and all else that comes of its run; `hidden` where nobody looks at that."""
        self._fill(self.cache, index, None)
        looked = self.trunk.looked
        if index == self.last and self.pruner is not None and looked is not None:
            key, value, module = self.trunk.keys[index], self.trunk.values[index], attention_of(self.layers[index])
            self.pruner.observe(_nothing, module, looked.query, key, value, looked.mask, dict(looked.given))
        return self.trunk.leaving.get(index, hidden)

    def _fill(self, cache: Any, index: int, length: int | None) -> None:
        """Hand `cache` the keys and values of layer `index`, or of its first `length` tokens."""
        keys, values = self.trunk.keys[index][:, :, :length], self.trunk.values[index][:, :, :length]
        if len(cache.layers) <= index or not cache.layers[index].is_initialized:
            cache.update(keys[:, :, :0], values[:, :, :0], index)
        cache.layers[index].keys, cache.layers[index].values = keys, values


def _nothing(*_: Any, **__: Any) -> None:
    """In place of an attention function: what it gives is there already."""


class _Shortcut:
    """`forward(original, ...)` in place of a layer's own."""

    def __init__(self, layer: Any, forward: Callable[..., Tensor]) -> None:
        self.layer, self.before = layer, vars(layer).get("forward")  # a device map may have put one there
        layer.forward = functools.wraps(layer.forward)(functools.partial(forward, layer.forward))

    def remove(self) -> None:
        if self.before is None:
            del self.layer.forward
        else:
            self.layer.forward = self.before
