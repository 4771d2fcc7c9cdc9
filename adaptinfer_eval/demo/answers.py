"""What is shown of a question: a row for each method, made one after the other. Knows nothing of the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL.Image import Image

from adaptinfer_eval.analysis.kept.asking import METHODS, Asker, check_text, read_own
from adaptinfer_eval.analysis.kept.stages import Stage
from adaptinfer_eval.methods.by_file import title
from adaptinfer_eval.methods.following import FollowingMethod
from adaptinfer_eval.methods.method import available_methods, get_method
from adaptinfer_eval.methods.schedule import mean_count
from adaptinfer_eval.models.batch import Batch
from adaptinfer_eval.models.tally import Cost
from adaptinfer_eval.report.layouts import TITLES
from adaptinfer_eval.sweep.cells import settings
from adaptinfer_eval.sweep.config import MethodEntry
from adaptinfer_eval.sweep.errors import SweepError

VANILLA = "vanilla"
CHOSEN = tuple(name for name in METHODS if name != VANILLA)
"""Chosen when the page opens."""


@dataclass(frozen=True)
class Row:
    """A method's answer; `stages` is empty where every vision token stays. In tokens, means over layers."""

    title: str
    text: str
    stages: Sequence[Stage]
    cost: Cost

    @property
    def entering(self) -> float:
        return mean_count(self.cost.entering, "entering")

    @property
    def leaving(self) -> float:
        return mean_count(self.cost.entering, "leaving")

    @property
    def macs(self) -> float:
        """Multiply-adds of the prefill by Eq. 5, what the papers call FLOPs."""
        return self.cost.flops / 2


@dataclass(frozen=True)
class Refused:
    """A method that cannot run, and why."""

    title: str
    problem: str


@dataclass(frozen=True)
class Answers:
    """What is known so far: `rows` in the order asked, vanilla first. `image`: the square that the model saw."""

    image: Image
    text: str
    budget: float
    rows: Sequence[Row | Refused]
    waiting: Sequence[str]
    """Titles of the methods that are still to come."""


def choices(own: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Title and name of the methods that can be asked beside vanilla, the papers' first; `own`: methods by file.

    Those that follow another question of a task are not among them.
    """
    names = [name for name in (*available_methods(), *own) if not issubclass(get_method(name), FollowingMethod)]
    names = sorted(names, key=lambda name: (name not in TITLES, list(TITLES).index(name) if name in TITLES else 0))
    return [(title_of(name), name) for name in names if name != VANILLA]


def title_of(name: str) -> str:
    return TITLES.get(name, title(name))


def answers(
    asker: Asker, image: str | None, text: str, methods: Sequence[str], budget: float | None
) -> Iterator[Answers]:
    """Vanilla's row, then one more with each of `methods`; `image` is a file.

    A method that cannot run has a row that says why. SweepError for what cannot be asked at all.
    """
    if image is None:
        raise SweepError("there is no picture: choose one, or one of the samples")
    if budget is None or budget <= 0:
        raise SweepError("there is no budget: give a number of vision tokens above 0")
    check_text(text)
    picture = read_own(Path(image))
    batch = asker.encode(picture, text)
    names = [VANILLA, *methods]
    shown = Answers(asker.seen(picture), text, budget, (), tuple(map(title_of, names)))
    for name in names:
        row = _row(asker, batch, name, budget)
        shown = replace(shown, rows=(*shown.rows, row), waiting=shown.waiting[1:])
        yield shown


def _row(asker: Asker, batch: Batch, name: str, budget: float) -> Row | Refused:
    try:
        entry = {"methods": (MethodEntry(name=name),), "budgets": (budget,)}
        (setting,) = settings(asker.config.model_copy(update=entry))
        asker.answer(batch, setting, tokens=1)  # not counted: what a first run allocates and compiles is no method's
        answer, cost = asker.answer(batch, setting)
    except (SweepError, ValueError) as error:
        return Refused(title_of(name), str(error))
    return Row(title_of(name), answer.text, answer.stages, cost)
