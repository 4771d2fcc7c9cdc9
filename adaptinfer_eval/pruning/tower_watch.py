"""Watches a vision tower while it encodes images, for methods that choose by what it computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from adaptinfer_eval.backbones.towers import Grid, Tower
from adaptinfer_eval.methods.tower import Look
from adaptinfer_eval.pruning.proof import attention_of, broken
from adaptinfer_eval.pruning.shown import Shown, chunks, column_sums, first_row


@dataclass
class _Forward:
    """One forward of the tower: where its images are, and what was seen, by name and layer, call by call."""

    grids: Sequence[Grid]
    order: Tensor | None
    seen: dict[tuple[str, int], list[Tensor]] = field(default_factory=dict)

    def note(self, name: str, layer: int, values: Tensor) -> None:
        self.seen.setdefault((name, layer), []).append(values)


class TowerWatch:
    """Notes what `look` asks for in every forward of `tower`; `take` hands it out, image by image.

    ValueError for layers that the tower has not, and for class tokens where it has none.
    """

    def __init__(self, tower: Tower, look: Look) -> None:
        self.tower, self.look = tower, look
        asked = {*look.attention, *look.received, *look.keys, *look.queries}
        if beyond := sorted(layer for layer in asked if not 0 <= layer < len(tower.layers)):
            raise ValueError(f"the vision tower has layers 0 to {len(tower.layers) - 1}, and no layer {beyond[0]}")
        if look.queries and not tower.class_tokens:
            raise ValueError("queries are looked at of the class token, and this model's vision tower has none")
        self.layer_of = {attention_of(tower.layers[layer], tower.attention): layer for layer in asked}
        self.forwards: list[_Forward] = []

    def hook(self) -> list[RemovableHandle]:
        tower = self.tower
        handles = [tower.model.register_forward_pre_hook(self._begin, with_kwargs=True)]
        if self.look.hidden and tower.projector is not None:
            handles.append(tower.projector.register_forward_pre_hook(self._project))
            if tower.gives_class:
                handles.append(tower.layers[tower.read].register_forward_hook(self._read))
        return handles

    def forget(self) -> None:
        """What was encoded so far is of other prompts."""
        self.forwards = []

    def _begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = {**dict(zip(self.tower.arguments, args, strict=False)), **kwargs}
        order = self.tower.order(named) if self.look.tower else None
        self.forwards.append(_Forward(self.tower.grids(named), order))

    @property
    def _now(self) -> _Forward:
        if not self.forwards:
            raise broken("the vision tower computes, and its forward was not seen to begin")
        return self.forwards[-1]

    def _project(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = args[0]
        self._now.note("hidden", -1, rows if rows.ndim > 2 else rows[None])

    def _read(self, _module: nn.Module, _args: Any, output: Any) -> None:
        rows = output if isinstance(output, Tensor) else output[0]
        self._now.note("cls", -1, rows[:, 0])

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
        """Handler of the tower's attention function."""
        if (layer := self.layer_of.get(module)) is not None:
            mask = attention_mask if isinstance(attention_mask, Tensor) and attention_mask.ndim == 4 else None
            self._attend(layer, query, key, mask, kwargs)
        return original(module, query, key, value, attention_mask, **kwargs)

    def _attend(self, layer: int, query: Tensor, key: Tensor, mask: Tensor | None, given: Mapping[str, Any]) -> None:
        now, look, classes = self._now, self.look, self.tower.class_tokens
        if layer in look.queries:
            now.note("queries", layer, query[:, :, 0])
        if layer in look.keys:
            now.note("keys", layer, key.transpose(1, 2))
        if layer in look.attention and classes:
            now.note("attention", layer, first_row(query, key, given))
        by_all = [name for name in ("attention", "received") if layer in getattr(look, name)]
        if classes and "attention" in by_all:
            by_all.remove("attention")
        if by_all:
            for some_queries, some_keys in chunks(query, key, given):
                sums = column_sums(some_queries, some_keys, mask, given)
                for name in by_all:
                    now.note(name, layer, sums)

    # Image by image ----------------------------------------------------------------------------------------------

    def take(self) -> list[Shown]:
        """What was noted of the images that have been encoded since the last time, in their order."""
        forwards, self.forwards = self.forwards, []
        return [shown for forward in forwards for shown in self._images(forward)]

    def _images(self, forward: _Forward) -> list[Shown]:
        look, count = self.look, len(forward.grids)

        def by_layer(name: str, rows: Callable[[_Forward, list[Tensor]], list[Tensor]]) -> list[dict[int, Tensor]]:
            parts: list[dict[int, Tensor]] = [{} for _ in range(count)]
            for layer in getattr(look, name):
                for part, own in zip(parts, rows(forward, self._seen(forward, name, layer)), strict=True):
                    part[layer] = own
            return parts

        hidden: list[Tensor | None] = [None] * count
        cls: list[Tensor | None] = [None] * count
        if look.hidden:
            hidden[:] = self._hidden(forward)
            if self.tower.gives_class:
                cls[:] = self._seen(forward, "cls", -1)[0]
        attention = by_layer("attention", self._columns if self.tower.class_tokens else self._means)
        received = by_layer("received", self._means)
        keys = by_layer("keys", self._keys)
        queries = by_layer("queries", lambda _, calls: list(calls[0]))
        return [
            Shown(self.tower.token_grid(grid), *of_image)
            for grid, *of_image in zip(forward.grids, hidden, cls, attention, received, keys, queries, strict=True)
        ]

    @staticmethod
    def _seen(forward: _Forward, name: str, layer: int) -> list[Tensor]:
        found = forward.seen.get((name, layer))
        if not found:
            what = "what its projector is given" if name == "hidden" else f"layer {layer}'s {name}"
            raise broken(f"the vision tower was to show {what}, which was not seen")
        return found

    def _hidden(self, forward: _Forward) -> list[Tensor]:
        calls = self._seen(forward, "hidden", -1)
        if self.tower.shuffled:
            sizes = [math.prod(self.tower.token_grid(grid)) for grid in forward.grids]
            return list(torch.split(calls[0][0], sizes)) if self.tower.packed else list(calls[0])
        grouped = self._grouped(forward, calls)
        return [of_tokens.mean(1) if self.tower.pooled else of_tokens.flatten(1) for of_tokens in grouped]

    def _rows(self, forward: _Forward, calls: list[Tensor]) -> list[Tensor]:
        """Of each image, the rows of its tokens, the mean of their patches': (N, …)."""
        grouped = self._grouped(forward, calls)
        return [own[:, 0] if own.shape[1] == 1 else own.float().mean(1) for own in grouped]

    def _keys(self, forward: _Forward, calls: list[Tensor]) -> list[Tensor]:
        rows = self._rows(forward, calls)
        if not self.tower.class_tokens:
            return rows
        return [torch.cat([first, own]) for first, own in zip(calls[0][:, :1], rows, strict=True)]

    def _columns(self, forward: _Forward, calls: list[Tensor]) -> list[Tensor]:
        """Of each image, columns (…, heads, n) as those of its tokens, (heads, N)."""
        return [own.T for own in self._rows(forward, [call.transpose(1, 2) for call in calls])]

    def _means(self, forward: _Forward, calls: list[Tensor]) -> list[Tensor]:
        """The same of sums over all of an image's rows."""
        columns, classes = self._columns(forward, calls), self.tower.class_tokens
        return [own / (classes + math.prod(grid)) for own, grid in zip(columns, forward.grids, strict=True)]

    def _grouped(self, forward: _Forward, calls: list[Tensor]) -> list[Tensor]:
        """Of each image (N, patches of a token, …), of what was seen in one call, or in one for each of its parts."""
        if self.tower.packed:
            rows = torch.cat([call.flatten(0, 1) for call in calls])
            if forward.order is not None:
                rows = torch.empty_like(rows).index_copy_(0, forward.order, rows)
            parts = list(torch.split(rows, [math.prod(grid) for grid in forward.grids]))
        else:
            parts = list(calls[0][:, calls[0].shape[1] - math.prod(forward.grids[0]) :])  # class tokens come first
        return [self.tower.grouped(part, grid) for part, grid in zip(parts, forward.grids, strict=True)]
