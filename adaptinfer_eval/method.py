"""What a method must say, and the lookup by name.

A method is one frozen dataclass in one file. It knows no model: it sees tensors and answers with scores
(`LayerMethod`, prunes between decoder layers) or with the tokens of an image that go on (`ImageMethod`, prunes before
the language model). It is found through the entry-point group `adaptinfer_eval.methods`.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adaptinfer_eval.schedule import (
    COUNTS,
    Count,
    Schedule,
    Stage,
    entering_counts,
    mean_count,
    nearest_to_budget,
    scale_layers,
    scaled_shapes,
)

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.pruning.attention import Attention, Embeddings

GROUP = "adaptinfer_eval.methods"


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Says how many vision tokens every layer of a model computes."""

    @abstractmethod
    def entering(self, num_layers: int, vision_tokens: int) -> list[int]:
        """Vision tokens that enter each of `num_layers` layers, for a prompt with `vision_tokens` of them."""

    @abstractmethod
    def describe(self, num_layers: int, vision_tokens: int) -> str:
        """The schedule in force, for audits and logs."""


@dataclass(frozen=True, kw_only=True)
class LayerMethod(Method):
    """Prunes after decoder layers. A subclass scores vision tokens; the engine keeps the best and drops the rest.

    `budget`: mean vision tokens per layer, counted as `count` says ("leaving" as in the papers, or "entering").
    `schedule`: explicit stages instead of a budget, `1:133,10:27,20:3`, or the name of one of `named_schedules`.
    `layers`: with a budget, the layers to prune after instead of the official ones, `1,10,20`.
    """

    budget: float | None = None
    schedule: str | None = None
    count: Count = "leaving"
    layers: str | None = None

    official: ClassVar[Mapping[int, Mapping[int, str]]]
    """The authors' schedules: model depth → budget (leaving) → schedule."""
    official_tokens: ClassVar[int] = 576
    """Vision tokens of the image that the official schedules were made for (LLaVA-1.5)."""
    named_schedules: ClassVar[Mapping[str, str]] = {}
    positions: ClassVar[Literal["keep", "renumber"]] = "renumber"
    """After a stage, tokens keep their original positions, or are numbered anew (in decode: tokens cached so far)."""
    queries: ClassVar[Literal["text", "last"]] = "text"
    """Attention rows to look at: all text after the image, or the last token of the prompt."""
    looks_ahead: ClassVar[bool] = False
    """Score with the attention of the layer after the stage, which has not run yet, instead of the stage's own."""

    def __post_init__(self) -> None:
        if (self.budget is None) == (self.schedule is None):
            raise ValueError(f"{self.name} needs either budget=64 or schedule='1:133,10:27,20:3', not both")
        if self.count not in COUNTS:
            raise ValueError(f"count={self.count!r}: vision tokens are counted {' or '.join(COUNTS)}")
        if self.schedule is not None:
            if self.layers is not None:
                raise ValueError("layers= goes with budget=; a schedule names its layers itself")
            Schedule.parse(self.named_schedules.get(self.schedule, self.schedule))
        elif self.layers is not None:
            self._given_layers()

    @property
    def name(self) -> str:
        return type(self).__name__

    # What a method says ------------------------------------------------------------------------------------------

    @abstractmethod
    def score(self, attention: Attention) -> Tensor:
        """Score every vision token, (B, V) float; the highest go on. Padding in the result is ignored."""

    def prepare(self, embeddings: Embeddings) -> Tensor | None:
        """Look at the input embeddings once, before layer 0; handed back as `Attention.prepared`."""
        return None

    def keep_count(self, keep: int | float, vision_tokens: int, current: int) -> int:
        """Tokens that a stage keeps of `current`, for a prompt that came with `vision_tokens`."""
        wanted = int(vision_tokens * keep) if isinstance(keep, float) else keep
        return min(wanted, current)

    def merged_count(self, dropped: int) -> int:
        """New tokens that `merge` makes of `dropped` ones."""
        return 0

    def merge(self, hidden: Tensor, score: Tensor, dropped: Sequence[int]) -> Tensor:
        """New tokens made of dropped ones, (B, max merged_count, D), put after the kept vision tokens.

        `hidden` (B, V, D) and `score` (B, V), -inf on kept tokens and padding; `dropped`: tokens dropped per sample.
        """
        raise TypeError(f"{self.name} says that it merges (merged_count), but has no merge()")

    # What follows from it ----------------------------------------------------------------------------------------

    def plan(self, num_layers: int, vision_tokens: int) -> Schedule:
        """The schedule for a model of `num_layers` layers and images of `vision_tokens` tokens.

        Explicit, official, or the official one's shape scaled until the count is within half a token of the budget.
        Raises ValueError where the schedule does not fit the model or the budget cannot be reached.
        """
        if self.schedule is not None:
            schedule = Schedule.parse(self.named_schedules.get(self.schedule, self.schedule))
        elif (official := self._official(num_layers, vision_tokens)) is not None:
            schedule = official
        else:
            schedule = self._solve(num_layers, vision_tokens)
        schedule.check(num_layers)
        return schedule

    def leaving_stages(self, schedule: Schedule, vision_tokens: int) -> list[int]:
        """Vision tokens that go on after each stage, kept and merged."""
        counts, current = [], vision_tokens
        for stage in schedule:
            keep = self.keep_count(stage.keep, vision_tokens, current)
            current = keep + self.merged_count(current - keep)
            counts.append(current)
        return counts

    def entering(self, num_layers: int, vision_tokens: int) -> list[int]:
        schedule = self.plan(num_layers, vision_tokens)
        return entering_counts(schedule, self.leaving_stages(schedule, vision_tokens), vision_tokens, num_layers)

    def describe(self, num_layers: int, vision_tokens: int) -> str:
        stages, current = [], vision_tokens
        schedule = self.plan(num_layers, vision_tokens)
        for stage, after in zip(schedule, self.leaving_stages(schedule, vision_tokens), strict=True):
            stages.append(Stage(stage.layer, self.keep_count(stage.keep, vision_tokens, current)))
            current = after
        return str(Schedule(stages))

    def shape(self, num_layers: int) -> Schedule:
        """The schedule whose keeps are scaled to meet a budget: the official one nearest in depth and budget."""
        depth = self._nearest_depth(num_layers)
        budget = min(self.official[depth], key=lambda known: abs(known - (self.budget or 0)))
        stages = Schedule.parse(self.official[depth][budget])
        layers = self._layers(num_layers)
        keeps = [stage.keep for stage in stages]
        if len(layers) != len(keeps):  # more or fewer places than the authors': the same share at every stage
            share = keeps[1] / keeps[0] if len(keeps) > 1 else 1.0
            keeps = [keeps[0] * share**i for i in range(len(layers))]
        return Schedule(Stage(layer, keep) for layer, keep in zip(layers, keeps, strict=True))

    def candidates(self, num_layers: int, vision_tokens: int) -> Iterable[Schedule]:
        """Schedules to choose from when a budget is solved."""
        return scaled_shapes(self.shape(num_layers), vision_tokens)

    def _nearest_depth(self, num_layers: int) -> int:
        return min(self.official, key=lambda known: abs(known - num_layers))

    def _layers(self, num_layers: int) -> list[int]:
        """Layers to prune after when a budget is solved: given, or the official ones scaled with depth."""
        depth = self._nearest_depth(num_layers)
        official = Schedule.parse(next(iter(self.official[depth].values())))
        return self._given_layers() or scale_layers((stage.layer for stage in official), depth, num_layers)

    def _given_layers(self) -> list[int]:
        if self.layers is None:
            return []
        return [stage.layer for stage in Schedule.parse(",".join(f"{x}:0" for x in self.layers.split(",")))]

    def _official(self, num_layers: int, vision_tokens: int) -> Schedule | None:
        if self.count != "leaving" or self.layers is not None or vision_tokens > self.official_tokens:
            return None
        text = next((t for b, t in self.official.get(num_layers, {}).items() if b == self.budget), None)
        return Schedule.parse(text) if text else None

    def _solve(self, num_layers: int, vision_tokens: int) -> Schedule:
        assert self.budget is not None
        candidates = list(self.candidates(num_layers, vision_tokens))
        candidates[0].check(num_layers)

        def mean(schedule: Schedule) -> float:
            leaving = self.leaving_stages(schedule, vision_tokens)
            return mean_count(entering_counts(schedule, leaving, vision_tokens, num_layers), self.count)

        best, distance = nearest_to_budget(candidates, mean, self.budget)
        if distance > 0.5:
            means = [mean(schedule) for schedule in candidates]
            raise ValueError(
                f"{self.name} pruning after layers {[s.layer for s in best]} of {num_layers} reaches {min(means):.0f} "
                f"to {max(means):.0f} vision tokens {self.count} on average, not {self.budget:g}; "
                + self._remedy(num_layers, vision_tokens)
            )
        return best

    def _remedy(self, num_layers: int, vision_tokens: int) -> str:
        """A schedule of this method that does reach the budget: its first stage as late as it can be."""
        assert self.budget is not None
        if self.budget >= vision_tokens:
            return f"the image has only {vision_tokens} vision tokens: use vanilla"
        full_layers = int(self.budget * num_layers // vision_tokens)
        for first in range(full_layers - (self.count == "entering"), -1, -1):
            try:
                return f"schedule='{self.starting_after(first, num_layers).plan(num_layers, vision_tokens)}' can"
            except ValueError:
                continue
        return "no stage is early enough: use a method that prunes before the language model (tome, downsample)"

    def starting_after(self, layer: int, num_layers: int) -> LayerMethod:
        """The same method with its first stage after `layer`."""
        later = [other for other in self._layers(num_layers)[1:] if other > layer]
        return replace(self, layers=",".join(map(str, [layer, *later])))


@dataclass(frozen=True, kw_only=True)
class ImageMethod(Method):
    """Prunes before the language model: every image goes in with `budget` vision tokens, at every layer.

    A subclass says which tokens of the image go on and, if it works inside the vision tower, what happens there.
    """

    budget: int
    count: Count = "leaving"

    in_tower: ClassVar[bool] = False
    """Whether tokens are merged inside the vision tower (`tower_schedule`, `assign`)."""

    def __post_init__(self) -> None:
        if self.budget != int(self.budget) or self.budget < 1:
            raise ValueError(f"budget={self.budget}: a whole number of vision tokens per image, at least 1")
        if self.count not in COUNTS:
            raise ValueError(f"count={self.count!r}: vision tokens are counted {' or '.join(COUNTS)}")

    @abstractmethod
    def select(self, image_tokens: int) -> Sequence[int]:
        """Indices of the tokens of an image of `image_tokens` tokens that go on, increasing."""

    def tower_schedule(self, num_layers: int, image_tokens: int) -> Sequence[int]:
        """Tokens to merge in each of the tower's layers up to the one that is read."""
        raise TypeError(f"{type(self).__name__} works in the tower (in_tower), but has no tower_schedule()")

    @property
    def weighs_keys(self) -> bool:
        """Whether the tower attends to a merged token in proportion to the tokens it stands for (+ log size)."""
        return False

    def assign(self, keys: Tensor, count: int) -> Tensor:
        """The new row of every token, (B, n) int64 in 0 … n - count - 1; tokens that share a row are averaged.

        `keys` (B, n, head size): keys of the tower layer, mean over heads, row 0 = CLS; `count`: rows to merge away.
        """
        raise TypeError(f"{type(self).__name__} works in the tower (in_tower), but has no assign()")

    def entering(self, num_layers: int, vision_tokens: int) -> list[int]:
        if self.budget > vision_tokens:
            raise ValueError(f"budget={self.budget}: the image has only {vision_tokens} vision tokens: use vanilla")
        return [int(self.budget)] * num_layers

    def describe(self, num_layers: int, vision_tokens: int) -> str:
        return f"before:{self.budget}"


def available_methods() -> tuple[str, ...]:
    """Names of all installed methods, sorted."""
    return tuple(sorted(_installed()))


def get_method(name: str) -> type[Any]:
    """The `Method` class registered under `name`; ValueError naming the nearest when there is none.

    Its options are its own, so its constructor is not typed here.
    """
    installed = _installed()
    if name not in installed:
        near = difflib.get_close_matches(name, installed, n=1, cutoff=0)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown method {name!r}: {hint}Known: {', '.join(sorted(installed))}")
    method = installed[name].load()
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise TypeError(f"entry point {installed[name].value!r} of method {name!r} is not a subclass of Method")
    return method


def _installed() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in found and found[entry.name].value != entry.value:
            raise ValueError(
                f"method {entry.name!r} is registered twice ({found[entry.name].value}, {entry.value}): rename one"
            )
        found[entry.name] = entry
    return found
