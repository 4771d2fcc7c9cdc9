"""Merging tokens inside a CLIP vision tower, between attention and MLP of its layers.

A layer computes h = x + attention(x), then h + mlp(norm(h)). Merging M replaces h by Mh in both places. The layer's
own forward stays in charge: its second norm is fed Mh, and its output is replaced by Mh + mlp(norm(Mh)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adaptinfer_eval.image_method import ImageMethod
from adaptinfer_eval.pruning.anatomy import Tower
from adaptinfer_eval.pruning.proof import Doubts, attention_of, broken
from adaptinfer_eval.pruning.trace import Trace


class TowerPruner:
    """Merges `schedule[i]` tokens in layer i of `tower`, as `method` assigns them."""

    def __init__(
        self, tower: Tower, method: ImageMethod, schedule: Sequence[int], trace: Trace, doubts: Doubts
    ) -> None:
        self.tower, self.method, self.trace, self.doubts = tower, method, trace, doubts
        layers = [(attention_of(layer), count) for layer, count in zip(tower.layers, schedule, strict=True)]
        self.counts = {attention: count for attention, count in layers if count}
        self.inside = {attention for attention, _ in layers}
        self._forget()

    def _forget(self) -> None:
        self.sizes: Tensor | None = None  # (images, n): tokens that each row stands for
        self.rows: Tensor | None = None  # (images, n): where this layer's merging sends each row …
        self.count = 0  # … and how many rows it takes away
        self.merged: Tensor | None = None
        self.merges = 0  # layers that merged in this forward
        self.trace.assign = None

    def hook(self) -> list[RemovableHandle]:
        model = self.tower.model
        handles = [
            model.register_forward_pre_hook(lambda *_: self._forget()),
            model.register_forward_hook(lambda *_: self._check()),
        ]
        for layer in self.tower.layers:
            if attention_of(layer) in self.counts:
                handles += [
                    layer.layer_norm2.register_forward_pre_hook(self._merge),  # type: ignore[union-attr]
                    layer.mlp.register_forward_hook(self._add),  # type: ignore[union-attr]
                    # First in line, so that a recorder of hidden states sees the merged ones.
                    layer.register_forward_hook(self._replace, prepend=True),
                ]
        return handles

    def _check(self) -> None:
        if self.merges != len(self.counts):
            raise broken(f"the vision tower was to merge in {len(self.counts)} layers and merged in {self.merges}")

    def observe(
        self,
        original: Any,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        kwargs: dict[str, Any],
    ) -> Any:
        """Handler of the tower's attention function: decide the merging, weigh merged keys by their size."""
        if module in self.counts:
            self.count = self.counts[module]
            keys = key.float().mean(1)
            self.doubts.note(keys, "in the vision tower")
            self.rows = self.method.assign(keys, self.count)
        if module in self.inside and self.sizes is not None and self.method.weighs_keys:
            attention_mask = self.sizes.log().to(query.dtype)[:, None, None, :]
            config: Any = module.config
            if "flash" in config._attn_implementation:
                original = ALL_ATTENTION_FUNCTIONS["sdpa"]  # flash kernels take no bias on keys
        return original(module, query, key, value, attention_mask, **kwargs)

    def _merge(self, _module: nn.Module, args: tuple[Tensor]) -> Tensor:
        hidden, rows = args[0], self.rows
        if rows is None:
            raise broken("the vision tower merges in a layer whose attention was not seen")
        sizes = self.sizes if self.sizes is not None else hidden.new_ones(rows.shape, dtype=torch.float32)
        length = rows.shape[1] - self.count
        self.sizes = sizes.new_zeros(len(rows), length).scatter_add_(1, rows, sizes)
        weighted = hidden.float() * sizes[..., None]
        total = weighted.new_zeros(len(rows), length, hidden.shape[2])
        total.scatter_add_(1, rows[..., None].expand_as(weighted), weighted)
        self.merged = (total / self.sizes[..., None]).to(hidden.dtype)
        self.merges += 1
        self.trace.assign = rows if self.trace.assign is None else rows.gather(1, self.trace.assign)
        return self.merged

    def _add(self, _module: nn.Module, _args: tuple[Tensor], output: Tensor) -> Tensor:
        assert self.merged is not None
        self.merged = self.merged + output
        return output.new_zeros(1)  # the layer adds this to the unmerged tokens; its sum is replaced next

    def _replace(self, _module: nn.Module, _args: Any, _output: Any) -> Tensor:
        assert self.merged is not None
        return self.merged


def restore_length(image_tokens: int) -> Any:
    """Hook of the projector: fill up to the placeholders of an image; the fillers are dropped before the decoder."""

    def hook(_module: nn.Module, _args: Any, features: Tensor) -> Tensor:
        return F.pad(features, (0, 0, 0, image_tokens - features.shape[1]))

    return hook
