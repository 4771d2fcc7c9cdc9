"""DART: a few pivots, and the vision tokens that are least like them; what duplicates them goes.

Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More", EMNLP 2025,
arXiv 2502.11494.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, nan
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.budget import OnDemand, given_layers, scale_layers
from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.schedule import Schedule, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention


@dataclass(frozen=True, kw_only=True)
class DART(LayerMethod):
    """DART (arXiv 2502.11494): after layer 1, keeps pivots and the vision tokens least similar to each of them.

    Pivots are the `image_pivots` vision tokens and the `text_pivots` tokens of the text after the image with the
    largest keys (L1 norm, rotated, all heads). One after the other each picks as many of the vision tokens that are
    left, with the lowest cosine to it, of hidden states behind the model's last norm. Kept tokens keep their positions.

    As the authors' code (Apache-2.0) has it, the order of the pivots is that in which Python walks a set of their
    places in the prompt, which changes the result and is not in the paper. It picks 8 t, so that its "192", "128" and
    "64" are 196, 132 and 68 tokens after two whole layers (`schedule="192"` …): entering 219.8, 159.8 and 99.8, leaving
    207.9, 145.9 and 83.9 on average; with a limit of tokens its reduction_ratio has no effect. Where a count is not
    pivots and 8 t, as for most budgets and for several images, the first pivots pick one more; that is ours.
    """

    source: ClassVar = "EMNLP 2025, arXiv 2502.11494"
    licence: ClassVar = "Apache-2.0"

    image_pivots: int = 4
    text_pivots: int = 4

    official: ClassVar = {}  # its numbers are no mean budgets
    named_schedules: ClassVar = {"192": "1:196", "128": "1:132", "64": "1:68"}
    positions: ClassVar = "keep"
    queries: ClassVar = "none"
    looks_at: ClassVar = ("keys", "leaving")

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.image_pivots, self.text_pivots) < 0 or self.image_pivots + self.text_pivots < 1:
            raise ValueError(
                f"image_pivots={self.image_pivots}, text_pivots={self.text_pivots}: DART needs one pivot at least"
            )
        if self.layers is not None and len(given_layers(self.layers)) > 1:
            raise ValueError(f"layers={self.layers!r}: DART prunes once: give one layer")
        stages = Schedule.parse(self.schedule) if self.schedule is not None else ()
        if any(isinstance(stage.keep, int) and stage.keep < self.image_pivots for stage in stages):
            raise ValueError(f"schedule={self.schedule!r}: DART keeps its {self.image_pivots} image pivots at least")

    def candidates(self, num_layers: int, vision_tokens: int) -> Sequence[Schedule]:
        (layer,), pivots = self.stage_layers(num_layers), min(self.image_pivots, vision_tokens)
        return OnDemand(vision_tokens - pivots + 1, lambda picks: Schedule([Stage(layer, pivots + picks)]))

    def stage_layers(self, num_layers: int) -> list[int]:
        return given_layers(self.layers) if self.layers else scale_layers((1,), 32, num_layers)

    def starting_after(self, layer: int, num_layers: int) -> DART:
        return replace(self, layers=str(layer))

    def keep_count(self, keep: int | float, vision_tokens: int, current: int) -> int:
        """Never fewer than the pivots in the image."""
        return min(max(super().keep_count(keep, vision_tokens, current), self.image_pivots), current)

    def score(self, attention: Attention) -> Tensor:
        """1 of tokens that are kept, 0 of others."""
        import torch
        from torch.nn.functional import normalize

        assert attention.leaving is not None
        image, text, there, places = self._pivots(attention)
        vision, words = attention.leaving.vision, attention.leaving.text
        words = words.gather(1, text[..., None].expand(-1, -1, words.shape[2]))
        states = normalize(attention.norm(torch.cat([vision, words], 1)).float(), dim=2)
        tokens = states[:, : vision.shape[1]]
        pivots = torch.cat(
            [image, vision.shape[1] + torch.arange(text.shape[1], device=text.device).expand_as(text)], 1
        )
        likeness = states.gather(1, pivots[..., None].expand(-1, -1, states.shape[2])) @ tokens.transpose(1, 2)

        number = torch.arange(vision.shape[1], device=vision.device)
        taken = torch.zeros_like(attention.vision_mask).scatter(1, image, there[:, : image.shape[1]])
        picks = (attention.keep - taken.sum(1, keepdim=True)).clamp(min=0)
        each, more = picks // there.sum(1, keepdim=True).clamp(min=1), picks % there.sum(1, keepdim=True).clamp(min=1)
        for turn, pivot in enumerate(walk(places, there).unbind(1)):
            count = (each + (turn < more)) * there.gather(1, pivot[:, None])
            own = likeness.gather(1, pivot[:, None, None].expand(-1, 1, likeness.shape[2]))[:, 0]
            order = own.masked_fill(taken | ~attention.vision_mask, inf).argsort(dim=1, stable=True)
            taken = taken | torch.zeros_like(taken).scatter(1, order, number < count)
        # A likeness that is no number must not pass for a choice.
        return taken.float().masked_fill(~(likeness.isfinite() | ~there[..., None]).all(1), nan)

    def _pivots(self, attention: Attention) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Vision tokens and text tokens by descending norm, which of them are there, and where in the prompt."""
        import torch

        from adaptinfer_eval.methods.seen import highest

        assert attention.keys is not None
        keys, place = attention.keys, attention.places()
        index, there, places = [], [], []
        for states, mask, own, count in (
            (keys.vision, keys.vision_mask, place[0], self.image_pivots),
            (keys.text, keys.text_mask, place[1], self.text_pivots),
        ):
            index.append(highest(states.float().abs().sum(2).masked_fill(~mask, -inf), count))
            there.append(mask.gather(1, index[-1]))
            places.append(own.gather(1, index[-1]))
        return index[0], index[1], torch.cat(there, 1), torch.cat(places, 1)


def walk(values: Tensor, there: Tensor) -> Tensor:
    """The order in which CPython walks a set that `values` (B, n) were put into, one after the other.

    Which of them comes first, second, …, (B, n); those that are not `there` come last. A set is a table of a power of
    two of slots; a value goes into the first free one of those that it tries, and a table that fills up is made anew.
    """
    import torch

    order = there.logical_not().byte().argsort(dim=1, stable=True)
    values, there = values.gather(1, order), there.gather(1, order)
    size, slots = 8, torch.full_like(values, values.shape[1] * 128)
    tries, table = _tries(values, size), values.new_zeros(len(values), size).bool()
    for number in range(values.shape[1]):
        table, slot = _put(table, tries[:, number], there[:, number])
        slots[:, number] = torch.where(there[:, number], slot, slots[:, number])
        if 5 * (number + 1) >= 3 * (size - 1):
            while size <= 4 * (number + 1):
                size *= 2
            tries, table, again = _tries(values, size), values.new_zeros(len(values), size).bool(), slots.clone()
            for old in slots.argsort(dim=1, stable=True)[:, : number + 1].unbind(1):
                own = tries.gather(1, old[:, None, None].expand(-1, 1, tries.shape[2]))[:, 0]
                table, slot = _put(table, own, there.gather(1, old[:, None])[:, 0])
                again = again.scatter(1, old[:, None], slot[:, None])
            slots = torch.where(there[:, number, None], again, slots)
    return order.gather(1, slots.argsort(dim=1, stable=True))


def _put(table: Tensor, tries: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Takes the first free slot of `tries` (B, m) in `table` (B, size); where nothing is `there`, it stays free."""
    free = table.gather(1, tries).logical_not().byte()
    slot = tries.gather(1, free.argmax(1, keepdim=True))
    return table.scatter(1, slot, there[:, None] | table.gather(1, slot)), slot[:, 0]


def _tries(values: Tensor, size: int) -> Tensor:
    """Slots in which each of `values` (B, n) is tried: (B, n, m). Places in a prompt are below 2 ** 30."""
    import torch

    from adaptinfer_eval.methods.seen import from_host

    # slot ← 5 slot + 1 + (value shifted by 5 bits more), solved for the slot of every round.
    rounds = torch.arange(values.shape[1] + 7)
    five, fifth = ([pow(5, sign * number, size) for number in rounds.tolist()] for sign in (1, -1))
    facts = from_host(torch.stack([rounds, torch.tensor(five), torch.tensor(fifth)]), values.device)
    added = (values[..., None] >> 5 * facts[0]) + (facts[0] > 0)
    slot = ((added * facts[2]).cumsum(-1) % size * facts[1] % size)[..., None]
    near = slot + torch.arange(10, device=values.device)
    return torch.where(slot + 9 < size, near, slot).flatten(2)
