"""Methods that prune between decoder layers: what they say, and the schedule that follows from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from adaptinfer_eval.budget import given_layers, scale_layers, scaled_shapes, solve
from adaptinfer_eval.method import Method
from adaptinfer_eval.schedule import Count, Schedule, Stage, check_count, entering_counts

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.pruning.attention import Attention, Embeddings


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
    """Vision tokens of the image that the official schedules were made for (LLaVA-1.5).

    On smaller images the authors' code uses the same lists, clamped to the tokens there are, and so do we: the count
    then stays below the budget, and the audit shows it. For larger images the budget is solved.
    """
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
        check_count(self.count)
        if self.schedule is not None:
            if self.layers is not None:
                raise ValueError("layers= goes with budget=; a schedule names its layers itself")
            self._explicit(self.schedule)
        elif self.layers is not None:
            given_layers(self.layers)

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
            schedule = self._explicit(self.schedule)
        elif (official := self._official(num_layers, vision_tokens)) is not None:
            schedule = official
        else:
            schedule = solve(self, num_layers, vision_tokens)
        schedule.check(num_layers)
        return schedule

    def stage_counts(self, schedule: Schedule, vision_tokens: int) -> list[tuple[int, int]]:
        """For each stage, the vision tokens that it keeps, and those that go on: kept and merged."""
        counts, current = [], vision_tokens
        for stage in schedule:
            keep = self.keep_count(stage.keep, vision_tokens, current)
            current = keep + self.merged_count(current - keep)
            counts.append((keep, current))
        return counts

    def entering_under(self, schedule: Schedule, num_layers: int, vision_tokens: int) -> list[int]:
        """Vision tokens that enter each layer when `schedule` is in force."""
        leaving = [after for _, after in self.stage_counts(schedule, vision_tokens)]
        return entering_counts(schedule, leaving, vision_tokens, num_layers)

    def entering(self, num_layers: int, vision_tokens: int) -> list[int]:
        return self.entering_under(self.plan(num_layers, vision_tokens), num_layers, vision_tokens)

    def describe(self, num_layers: int, vision_tokens: int) -> str:
        schedule = self.plan(num_layers, vision_tokens)
        counts = self.stage_counts(schedule, vision_tokens)
        return str(Schedule(Stage(stage.layer, keep) for stage, (keep, _) in zip(schedule, counts, strict=True)))

    def candidates(self, num_layers: int, vision_tokens: int) -> Iterable[Schedule]:
        """Schedules to choose from when a budget is solved: the official shape with all keeps scaled alike."""
        return scaled_shapes(self._shape(num_layers), vision_tokens)

    def starting_after(self, layer: int, num_layers: int) -> LayerMethod:
        """The same method with its first stage after `layer`."""
        later = [other for other in self.stage_layers(num_layers)[1:] if other > layer]
        return replace(self, layers=",".join(map(str, [layer, *later])))

    def stage_layers(self, num_layers: int) -> list[int]:
        """Layers to prune after when a budget is solved: given, or the official ones scaled with depth."""
        if self.layers is not None:
            return given_layers(self.layers)
        depth = self._nearest_depth(num_layers)
        official = Schedule.parse(next(iter(self.official[depth].values())))
        return scale_layers((stage.layer for stage in official), depth, num_layers)

    def _explicit(self, schedule: str) -> Schedule:
        return Schedule.parse(self.named_schedules.get(schedule, schedule))

    def _shape(self, num_layers: int) -> Schedule:
        """The official schedule nearest in depth and budget."""
        known = self.official[self._nearest_depth(num_layers)]
        nearest = min(known, key=lambda budget: abs(budget - (self.budget or 0)))
        layers, keeps = self.stage_layers(num_layers), [stage.keep for stage in Schedule.parse(known[nearest])]
        if len(layers) != len(keeps):  # more or fewer places than the authors': the same share at every stage
            share = keeps[1] / keeps[0] if len(keeps) > 1 else 1.0
            keeps = [keeps[0] * share**i for i in range(len(layers))]
        return Schedule(Stage(layer, keep) for layer, keep in zip(layers, keeps, strict=True))

    def _nearest_depth(self, num_layers: int) -> int:
        return min(self.official, key=lambda known: abs(known - num_layers))

    def _official(self, num_layers: int, vision_tokens: int) -> Schedule | None:
        if self.count != "leaving" or self.layers is not None or vision_tokens > self.official_tokens:
            return None
        text = next((t for b, t in self.official.get(num_layers, {}).items() if b == self.budget), None)
        return Schedule.parse(text) if text else None
