"""Merging tokens inside a CLIP vision tower, between attention and MLP of its layers.

A layer computes h = x + attention(x), then h + mlp(norm(h)). Merging M replaces h by Mh in both places. The layer's
own forward stays in charge: its second norm is fed Mh, and its output is replaced by Mh + mlp(norm(Mh)).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adaptinfer_eval.backbones.towers import Tower
from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.seen import from_host, per_sample
from adaptinfer_eval.pruning.proof import Doubts, attention_of, broken
from adaptinfer_eval.pruning.trace import Trace


class TowerPruner:
    """Merges tokens in the `merging` layers of `tower`, as `method` says and assigns them.

    Images of prompts with other numbers of images may keep other numbers of tokens (a budget per prompt). Their rows
    are then as long as the longest; free rows behind stand for no token (size 0), are 0 and attended to by nobody.
    """

    def __init__(self, tower: Tower, method: ImageMethod, trace: Trace, doubts: Doubts) -> None:
        self.tower, self.method, self.trace, self.doubts = tower, method, trace, doubts
        self.layers = tower.layers[: tower.merging]
        self.layer_of = {attention_of(layer): index for index, layer in enumerate(self.layers)}
        self._schedule = functools.cache(self._merges)
        self.expected: list[int] | None = None
        self._forget()

    def expect(self, images: Sequence[int]) -> None:
        """The images that come next are of prompts with so many each."""
        of_each = [self.method.image_budgets([self.tower.image_tokens] * count) for count in images]
        self.expected = [budget for budgets in of_each for budget in budgets]

    def _merges(self, budget: int) -> Sequence[int]:
        return self.method.for_image(budget).tower_schedule(len(self.layers), self.tower.image_tokens)

    def _forget(self) -> None:
        self.budgets: list[int] = []  # of each image
        self.groups: dict[int, Tensor] = {}  # the images with each budget, where there are several
        self.counts: list[dict[int, int]] = []  # of each layer: rows taken away, by budget
        self.sizes: Tensor | None = None  # (images, n): tokens that each row stands for
        self.rows: Tensor | None = None  # (images, n): where this layer's merging sends each row …
        self.length = 0  # … and how many rows are left; n stands for none of them
        self.merged: Tensor | None = None
        self.merges = 0  # layers that merged in this forward
        self.trace.assign = None

    def hook(self) -> list[RemovableHandle]:
        model = self.tower.model
        handles = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(lambda *_: self._check()),
        ]
        for index, layer in enumerate(self.layers):
            handles += [
                layer.layer_norm2.register_forward_pre_hook(functools.partial(self._merge, index)),  # type: ignore[union-attr]
                layer.mlp.register_forward_hook(functools.partial(self._add, index)),  # type: ignore[union-attr]
                # First in line, so that a recorder of hidden states sees the merged ones.
                layer.register_forward_hook(functools.partial(self._replace, index), prepend=True),
            ]
        return handles

    def _begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._forget()
        pixels = args[0] if args else kwargs["pixel_values"]
        if self.method.per == "image":
            self.budgets = self.method.image_budgets([self.tower.image_tokens] * len(pixels))
        elif self.expected is None or len(self.expected) != len(pixels):
            raise ValueError(
                f"per=prompt shares {self.method.name}'s budget among the images of a prompt, and of these "
                f"{len(pixels)} images it is not known which belong together: pass input_ids and pixel_values at once"
            )
        else:
            self.budgets, self.expected = self.expected, None
        budgets = set(self.budgets)
        self.counts = [{b: self._schedule(b)[layer] for b in budgets} for layer in range(len(self.layers))]
        if len(budgets) > 1:
            for budget in budgets:
                own = [image for image, other in enumerate(self.budgets) if other == budget]
                self.groups[budget] = from_host(torch.tensor(own), pixels.device)

    def _is_merging(self, layer: int) -> bool:
        return any(self.counts[layer].values())

    def _check(self) -> None:
        wanted = sum(map(self._is_merging, range(len(self.counts))))
        if self.merges != wanted:
            raise broken(f"the vision tower was to merge in {wanted} layers and merged in {self.merges}")

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
        if module in self.layer_of:
            if self._is_merging(self.layer_of[module]):
                self.rows = self._assign(key.float().mean(1), self.layer_of[module])
            if self.sizes is not None and (self.method.weighs_keys or self.groups):
                weights = self.sizes if self.method.weighs_keys else self.sizes.clamp(max=1)
                attention_mask = weights.log().to(query.dtype)[:, None, None, :]
                config: Any = module.config
                if "flash" in config._attn_implementation:
                    original = ALL_ATTENTION_FUNCTIONS["sdpa"]  # flash kernels take no bias on keys
        return original(module, query, key, value, attention_mask, **kwargs)

    def _assign(self, keys: Tensor, layer: int) -> Tensor:
        """Where a layer sends each row (images, n), from its keys (images, n, head size)."""
        self.doubts.note(keys, "in the vision tower")
        counts = self.counts[layer]
        lengths = {b: 1 + self.tower.image_tokens - sum(self._schedule(b)[:layer]) for b in counts}  # row 0 is CLS
        if keys.shape[1] != max(lengths.values()):
            if self.sizes is None:
                raise ValueError(
                    f"images of {keys.shape[1] - 1} tokens in a vision tower for {self.tower.image_tokens}: resize them"
                )
            raise broken(
                f"layer {layer} of the vision tower was to get {max(lengths.values())} tokens and got {keys.shape[1]}: "
                "not all that was to be was merged in the layers before it"
            )
        self.length = max(lengths[budget] - count for budget, count in counts.items())
        if not self.groups:
            return self.method.assign(keys, next(iter(counts.values())))
        rows = torch.full(keys.shape[:2], self.length, device=keys.device)
        for budget, images in self.groups.items():
            now, count = lengths[budget], counts[budget]
            whole = torch.arange(now, device=keys.device)
            rows[images, :now] = self.method.assign(keys[images, :now], count) if count else whole
        return rows

    def _merge(self, layer: int, _module: nn.Module, args: tuple[Tensor]) -> Tensor | None:
        if not self._is_merging(layer):
            return None
        hidden, rows = args[0], self.rows
        if rows is None:
            raise broken("the vision tower merges in a layer whose attention was not seen")
        sizes = self.sizes if self.sizes is not None else hidden.new_ones(rows.shape, dtype=torch.float32)
        self.sizes = sizes.new_zeros(len(rows), self.length + 1).scatter_add_(1, rows, sizes)[:, :-1]
        weighted = hidden.float() * sizes[..., None]
        total = weighted.new_zeros(len(rows), self.length + 1, hidden.shape[2])
        total.scatter_add_(1, rows[..., None].expand_as(weighted), weighted)
        self.merged = (total[:, :-1] / self.sizes[..., None].clamp(min=1)).to(hidden.dtype)
        self.merges += 1
        self.trace.assign = rows if self.trace.assign is None else rows.gather(1, self.trace.assign)
        return self.merged

    def _add(self, layer: int, _module: nn.Module, _args: tuple[Tensor], output: Tensor) -> Tensor | None:
        if not self._is_merging(layer):
            return None
        assert self.merged is not None
        self.merged = self.merged + output
        return output.new_zeros(1)  # the layer adds this to the unmerged tokens; its sum is replaced next

    def _replace(self, layer: int, _module: nn.Module, _args: Any, _output: Any) -> Tensor | None:
        self.rows = None
        return self.merged if self._is_merging(layer) else None

    def restore_length(self, _module: nn.Module, _args: Any, features: Tensor) -> Tensor:
        """Hook of the projector: fill up an image's placeholders; the fillers are dropped before the decoder."""
        if self.groups:  # the projector gave free rows its bias
            slots = torch.arange(features.shape[1], device=features.device)
            free = slots >= per_sample(self.budgets, features.device)
            features = features.masked_fill(free[..., None], 0)
        return F.pad(features, (0, 0, 0, self.tower.image_tokens - features.shape[1]))
