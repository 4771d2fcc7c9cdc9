"""Pruning schedules: parsing and counting. Plain numbers, no torch.

A *stage* `(layer, keep)` lets decoder layer `layer` (0-based) run on all the tokens it gets; `keep` vision tokens
go on to the next layer. A *schedule* is a row of stages, written `1:133,10:27,20:3`. `keep` is a number of tokens;
or, written with a decimal point (`7:0.5`), a share of the prompt's vision tokens; or, written in percent (`7:50%`), a
share of those that are left there.

A *budget* is the mean number of vision tokens per layer. The papers count the tokens *leaving* each layer
(AdaptInfer, SparseVLM); what is computed are the tokens *entering* it. It is meant *per image*, as papers count: a
prompt of three images has three times the budget; or *per prompt*, however many images it has. Below 1 it is a share of
the prompt's vision tokens: 25 is a number of tokens, 0.25 a share, and 1 is one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

Count = Literal["leaving", "entering"]
COUNTS: tuple[Count, ...] = ("leaving", "entering")
Per = Literal["image", "prompt"]
PERS: tuple[Per, ...] = ("image", "prompt")


def is_share(budget: float) -> bool:
    """Whether a budget is a share of a prompt's vision tokens, and no number of them."""
    return budget < 1


def tokens_of(budget: float, vision_tokens: int) -> float:
    """The budget of a prompt of `vision_tokens` in tokens: as it is, or that share of them."""
    return round(budget * vision_tokens, 6) if is_share(budget) else budget  # 0.07 of 300 are 21.000000000000004


def no_percent(budget: Any) -> Any:
    """The budget as it was written; ValueError where that is a percentage."""
    if isinstance(budget, str) and budget.strip().endswith("%"):
        raise ValueError(f"budget={budget}: a share is written as a number below 1, such as 0.25")
    return budget


def budget_text(budget: float) -> str:
    """As people write it: `64`, and of a share `25 %`."""
    return f"{100 * budget:.6g} %" if is_share(budget) else f"{budget:g}"


def budgets_text(budgets: Sequence[float], noun: str = "vision tokens") -> str:
    """With the `noun` that they count: `128, 64 vision tokens`, `25 % of the vision tokens`, or both."""
    numbers = ", ".join(budget_text(budget) for budget in budgets if not is_share(budget))
    shares = ", ".join(budget_text(budget) for budget in budgets if is_share(budget))
    return " and ".join([f"{numbers} {noun}"] * bool(numbers) + [f"{shares} of the {noun}"] * bool(shares))


def check_budget(budget: float, per: str) -> None:
    """ValueError unless `budget` is above 0, and where a share has `per` "prompt", which it is anyway."""
    if budget <= 0:
        raise ValueError(f"budget={budget!r}: a number of vision tokens above 0, or a share: 25 tokens, or 0.25 of all")
    if is_share(budget) and per == "prompt":
        raise ValueError(
            f"per=prompt goes with a number of tokens, and budget={budget!r} is a share of all the prompt's vision "
            "tokens anyway: leave per out"
        )


def check_counting(count: str, per: str) -> None:
    """ValueError unless `count` is one of COUNTS and `per` one of PERS."""
    if count not in COUNTS:
        raise ValueError(f"count={count!r}: vision tokens are counted {' or '.join(COUNTS)}")
    if per not in PERS:
        raise ValueError(f"per={per!r}: a budget is for each {' or for each '.join(PERS)}")


class ShareOfCurrent(float):
    """A share of the vision tokens that are left when a stage begins, `0.17`, written `17%`."""

    def __str__(self) -> str:
        return f"{round(100 * self, 10):g}%"


class Stage(NamedTuple):
    """After decoder layer `layer`, `keep` vision tokens go on (a float below 1: that share of the prompt's, or of the
    current ones).
    """

    layer: int
    keep: int | float

    def __str__(self) -> str:
        return f"{self.layer}:{self.keep}"


class Schedule(tuple[Stage, ...]):
    """Stages with strictly increasing layers; `str()` and `parse` are inverse to each other."""

    def __str__(self) -> str:
        return ",".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read `layer:keep,layer:keep,…`; ValueError when it cannot be read or its layers do not increase."""
        try:
            schedule = cls(_stage(part) for part in text.split(","))
        except ValueError as error:
            raise ValueError(
                f"schedule {text!r} cannot be read ({error}); write layer:keep pairs such as '1:133,10:27,20:3'"
            ) from None
        layers = [stage.layer for stage in schedule]
        if any(later <= earlier for earlier, later in pairwise(layers)):
            raise ValueError(f"schedule {text!r}: layers must increase, got {layers}; sort and merge its stages")
        return schedule

    def in_shares(self, vision_tokens: int) -> Schedule:
        """With each number below `vision_tokens` as a share of them, so exact that it is that number again."""
        digits = len(str(vision_tokens))
        most = 1 - 10.0**-digits

        def share(keep: int | float) -> float:
            return keep if isinstance(keep, float) else min(round((keep + 0.5) / vision_tokens, digits), most)

        return Schedule(Stage(layer, share(keep)) for layer, keep in self)

    def check(self, num_layers: int) -> None:
        """ValueError unless every stage has a layer after it in a model of `num_layers` layers."""
        if self and self[-1].layer > num_layers - 2:
            raise ValueError(
                f"schedule '{self}' prunes after layer {self[-1].layer}, but the model has {num_layers} layers "
                f"(0 to {num_layers - 1}): the last useful stage is after layer {num_layers - 2}"
            )


def _stage(text: str) -> Stage:
    layer, separator, keep = text.strip().partition(":")
    if not separator:
        raise ValueError(f"{text.strip()!r} has no ':'")
    stage = Stage(int(layer), _keep(keep))
    if stage.layer < 0 or not stage.keep >= 0 or (isinstance(stage.keep, float) and stage.keep >= 1):
        raise ValueError(f"{text.strip()!r}: layer and keep must not be negative, a share must be below 1 (100%)")
    return stage


def _keep(text: str) -> int | float:
    if text.rstrip().endswith("%"):
        return ShareOfCurrent(float(text.rstrip()[:-1]) / 100)
    return float(text) if "." in text or "e-" in text else int(text)  # 1e-05 is how Python writes 0.00001


def wanted_count(keep: int | float, vision_tokens: int, current: int) -> int:
    """Tokens that a stage is to keep of `current`, for a prompt that came with `vision_tokens`; may be more."""
    if isinstance(keep, ShareOfCurrent):
        return int(current * keep)
    return int(vision_tokens * keep) if isinstance(keep, float) else keep


def entering_counts(schedule: Schedule, leaving_stage: Sequence[int], vision_tokens: int, num_layers: int) -> list[int]:
    """Vision tokens entering each layer, when `leaving_stage[i]` of `vision_tokens` go on after stage i."""
    counts = [vision_tokens] * num_layers
    for stage, count in zip(schedule, leaving_stage, strict=True):
        counts[stage.layer + 1 :] = [count] * (num_layers - stage.layer - 1)
    return counts


def mean_count(entering: Sequence[float], count: Count) -> float:
    """Mean vision tokens per layer, from the tokens `entering` each layer (no stage after the last layer)."""
    leaving = [*entering[1:], entering[-1]]
    return sum(leaving if count == "leaving" else entering) / len(entering)
