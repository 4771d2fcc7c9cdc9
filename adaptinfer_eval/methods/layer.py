"""Methods that prune between decoder layers: what they say, and the schedule that follows from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, ClassVar, Literal

from adaptinfer_eval.methods.budget import (
    Candidate,
    OnDemand,
    Rows,
    given_layers,
    scale_layers,
    scaled_shapes,
    solve,
)
from adaptinfer_eval.methods.method import Method
from adaptinfer_eval.methods.schedule import (
    Count,
    Per,
    Schedule,
    Stage,
    check_budget,
    check_counting,
    entering_counts,
    is_share,
    tokens_of,
    wanted_count,
)

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention, Embeddings


@dataclass(frozen=True, kw_only=True)
class LayerMethod(Method):
    """Prunes after decoder layers. A subclass scores vision tokens; the engine keeps the best and drops the rest.

    `budget`: mean vision tokens per layer, counted as `count` says ("leaving" as in the papers, or "entering"), `per`
    "image" of a prompt or for the whole "prompt". Below 1 it is a share of the prompt's vision tokens, solved for each
    prompt: `budget=0.25` of 576 tokens is what 144 per prompt would be, official schedule or solved; 25 are tokens.
    `schedule`: explicit stages instead of a budget, `1:133,10:27,20:3`, or the name of one of `named_schedules`. Its
    numbers are tokens of the whole prompt, however many images that has.
    `layers`: with a budget, the layers to prune after instead of the official ones, `1,10,20`.
    """

    budget: float | None = None
    schedule: str | None = None
    count: Count = "leaving"
    per: Per = "image"
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
    queries: ClassVar[Literal["text", "last", "all", "none"]] = "text"
    """Attention rows to look at: all text after the image, and the vision tokens' own ("all"); or the last token of the
    prompt; or none, for which nothing is computed."""
    looks_at: ClassVar[Collection[Literal["keys", "entering", "leaving"]]] = ()
    """What else `score` sees of the layer before the stage: its keys, hidden states that enter or leave it."""
    looks_ahead: ClassVar[bool] = False
    """Score with the attention of the layer after the stage, which has not run yet, instead of the stage's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.budget is None) == (self.schedule is None):
            raise ValueError(f"{self.name} needs either budget=64 or schedule='1:133,10:27,20:3', not both")
        check_counting(self.count, self.per)
        if self.budget is not None:
            check_budget(self.budget, self.per)
        if self.schedule is not None:
            if self.layers is not None:
                raise ValueError("layers= goes with budget=; a schedule names its layers itself")
            for option in ("count", "per"):
                if getattr(self, option) != getattr(type(self), option):
                    raise ValueError(f"{option}= goes with budget=; a schedule says itself how many tokens go on")
            # One spelling, so that equal methods are equal.
            object.__setattr__(self, "schedule", str(self._explicit(self.schedule)))
        elif self.layers is not None:
            object.__setattr__(self, "layers", ",".join(map(str, given_layers(self.layers))))

    def inside(self, num_layers: int) -> LayerMethod:
        return self

    @property
    def attends(self) -> bool:
        """Whether it needs a layer that attends."""
        return self.queries != "none" or "keys" in self.looks_at

    # What a method says ------------------------------------------------------------------------------------------

    @abstractmethod
    def score(self, attention: Attention) -> Tensor:
        """Score every vision token, (B, V) float; the highest go on. Padding in the result is ignored."""

    def prepare(self, embeddings: Embeddings) -> Tensor | None:
        """Look at the input embeddings once, before layer 0; handed back as `Attention.prepared`."""
        return None

    def text_weights(self, attention: Attention) -> Tensor | None:
        """The weight that each text token has in `score`, (B, T) float for the T tokens of text after the image.

        0 on padding; None of a method that no text token guides more than another.
        """
        return None

    def keep_count(self, keep: int | float, vision_tokens: int, current: int) -> int:
        """Tokens that a stage keeps of `current`, for a prompt that came with `vision_tokens`."""
        return min(wanted_count(keep, vision_tokens, current), current)

    def merged_count(self, dropped: int) -> int:
        """New tokens that `merge` makes of `dropped` ones."""
        return 0

    def merge(self, hidden: Tensor, score: Tensor, dropped: Sequence[int]) -> tuple[Tensor, Tensor]:
        """New tokens made of dropped ones, (B, max merged_count, D), put after the kept vision tokens.

        And which of them each token went into, (B, V) int64, -1 where it is gone.
        `hidden` (B, V, D) and `score` (B, V), -inf on kept tokens and padding; `dropped`: tokens dropped per sample.
        """
        raise TypeError(f"{self.name} says that it merges (merged_count), but has no merge()")

    # What follows from it ----------------------------------------------------------------------------------------

    def plan(self, num_layers: int, vision_tokens: int, images: int = 1) -> Schedule:
        """The schedule for a model of `num_layers` layers and a prompt of `images` images, `vision_tokens` in all.

        Explicit, official, or the official one's shape scaled until the count is within half a token of the budget.
        With a budget per image, stages keep `images` times what they keep of one image (of the mean size).
        Raises ValueError where the schedule does not fit the model or the budget cannot be reached.
        """
        per_image = self.budget is not None and not is_share(self.budget) and self.per == "image"
        times = images if per_image else 1
        tokens = round(vision_tokens / times)
        if self.schedule is not None:
            schedule = self._explicit(self.schedule)
        elif (official := self._official(num_layers, tokens)) is not None:
            schedule = official
        else:
            schedule = self._solved(num_layers, tokens, images)
        schedule.check(num_layers)
        return Schedule(Stage(layer, keep if isinstance(keep, float) else keep * times) for layer, keep in schedule)

    def resolved(self, num_layers: int, vision_tokens: int, images: int = 1) -> Schedule:
        """`plan` in whole tokens, none more than there are: what each stage keeps of such a prompt."""
        schedule = self.plan(num_layers, vision_tokens, images)
        counts = self.stage_counts(schedule, vision_tokens)
        return Schedule(Stage(stage.layer, keep) for stage, (keep, _) in zip(schedule, counts, strict=True))

    def excess(self, vision_tokens: int) -> str:
        """What an explicit schedule asks too much of a prompt with `vision_tokens`; empty where it does not.

        The engine then keeps all there are (or all but one, where the authors' code does), and says so.
        """
        if self.schedule is None:
            return ""
        schedule, current = self._explicit(self.schedule), vision_tokens
        for stage, (keep, after) in zip(schedule, self.stage_counts(schedule, vision_tokens), strict=True):
            wanted = wanted_count(stage.keep, vision_tokens, current)
            if wanted > current and keep >= current - 1:
                return (
                    f"schedule '{self.schedule}' keeps {wanted} vision tokens after layer {stage.layer}, and only "
                    f"{current} of a prompt's {vision_tokens} are left there: write fewer, or shares of the prompt's "
                    "that become smaller, such as 1:0.5,10:0.2"
                )
            current = after
        return ""

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

    def entering(self, num_layers: int, vision_tokens: int, images: int = 1) -> list[int]:
        return self.entering_under(self.plan(num_layers, vision_tokens, images), num_layers, vision_tokens)

    def describe(self, num_layers: int, vision_tokens: int, images: int = 1) -> str:
        return str(self.resolved(num_layers, vision_tokens, images))

    def candidates(self, num_layers: int, vision_tokens: int) -> Sequence[Schedule]:
        """Schedules to choose from when a budget is solved, none with fewer tokens than the one before it.

        The official shape with all keeps scaled alike.
        """
        return scaled_shapes(self._shape(num_layers, vision_tokens), vision_tokens)

    def finer_candidates(self, num_layers: int, vision_tokens: int) -> Sequence[Schedule]:
        """More of them, in finer steps, for budgets that none of `candidates` is near enough."""
        return ()

    def counted_candidates(self, num_layers: int, vision_tokens: int) -> Iterator[Sequence[Candidate]]:
        """`candidates`, then `finer_candidates`, with what they compute; ValueError where one does not fit the model.

        For a budget that is a share they keep shares, which prompts of any size can have.
        """

        def counted(schedules: Sequence[Schedule], number: int) -> Candidate:
            schedule = schedules[number]
            schedule.check(num_layers)
            if self.budget is not None and is_share(self.budget):
                schedule = schedule.in_shares(vision_tokens)
            return schedule, self.entering_under(schedule, num_layers, vision_tokens)

        for schedules in (
            self.candidates(num_layers, vision_tokens),
            self.finer_candidates(num_layers, vision_tokens),
        ):
            yield OnDemand(len(schedules), partial(counted, schedules))

    def places(self, num_layers: int) -> Schedule:
        """Where the stages are, for images of any size. What they keep, or that they cannot, is planned by the prompt.

        ValueError where a model of `num_layers` layers has no such layers.
        """
        if self.schedule is not None:
            return self.plan(num_layers, self.official_tokens)
        places = next(iter(self.candidates(num_layers, self.official_tokens)))
        places.check(num_layers)
        return places

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

    def _solved(self, num_layers: int, vision_tokens: int, images: int) -> Schedule:
        try:
            return _solve(self, num_layers, vision_tokens)
        except ValueError as error:
            if self.budget is not None and is_share(self.budget):
                raise ValueError(f"budget={self.budget:g} of {vision_tokens} vision tokens: {error}") from None
            if self.per == "image" or images == 1:
                raise
            raise ValueError(f"a prompt of {images} images: {error}; or count the budget per=image") from None

    def _explicit(self, schedule: str) -> Schedule:
        return Schedule.parse(self.named_schedules.get(schedule, schedule))

    def _shape(self, num_layers: int, vision_tokens: int) -> Schedule:
        """The official schedule nearest in depth and in the share that the budget is of the image's tokens."""
        known = self.official[self._nearest_depth(num_layers)]
        wanted = tokens_of(self.budget or 0, vision_tokens) * self.official_tokens / max(vision_tokens, 1)
        nearest = min(known, key=lambda budget: abs(budget - wanted))
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
        wanted = tokens_of(self.budget or 0, vision_tokens)
        text = next((text for budget, text in self.official.get(num_layers, {}).items() if budget == wanted), None)
        return Schedule.parse(text) if text else None


@lru_cache(maxsize=4096)  # where images have any size, nearly every prompt has another number of tokens
def _solve(method: LayerMethod, num_layers: int, vision_tokens: int) -> Schedule:
    def starting_after(layer: int) -> Rows:
        return method.starting_after(layer, num_layers).counted_candidates(num_layers, vision_tokens)

    assert method.budget is not None
    own = method.counted_candidates(num_layers, vision_tokens)
    return solve(method.name, tokens_of(method.budget, vision_tokens), method.count, own, starting_after)
