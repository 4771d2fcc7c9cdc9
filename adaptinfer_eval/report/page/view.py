"""What the template draws. Everything is ready to be printed; texts are escaped by the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from adaptinfer_eval.report.page.plot import Line, Plot


class Column(NamedTuple):
    title: str
    numeric: bool = True


class Cell(NamedTuple):
    """`sort`: what a numeric column sorts by; None: there is no value. `mark` hangs behind the text."""

    text: str
    sort: float | None = None
    mark: str = ""


class Row(NamedTuple):
    """`budget` is empty where the method has none."""

    method: str
    budget: str
    cells: Sequence[Cell]


class Table(NamedTuple):
    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]


class Notice(NamedTuple):
    """`kind`: good, warning or plain."""

    kind: str
    headline: str
    text: str = ""
    items: Sequence[str] = ()


class Image(NamedTuple):
    """A picture, once in the page. `small`: drawn with hard pixels."""

    id: str
    uri: str
    small: bool


class Veil(NamedTuple):
    path: str
    opacity: float


class Picture(NamedTuple):
    """A picture with `side` × `side` patches, what of it was dropped, and borders around what was kept or merged."""

    image: str
    side: int
    description: str
    veils: Sequence[Veil] = ()
    kept: str = ""
    merged: str = ""


class Answer(NamedTuple):
    """`verdict`: right, wrong or partly right; empty where it is not known."""

    title: str
    text: str
    verdict: str
    stages: str
    picture: Picture | None


class Question(NamedTuple):
    id: str
    task: str
    budget: str
    doc: int
    text: str
    target: str
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Questions:
    """The section of questions: what is shown, and the pictures that they are about."""

    intro: Sequence[str]
    shown: Sequence[Question] = ()
    images: Sequence[Image] = ()


@dataclass(frozen=True)
class Page:
    """Everything on the page, from top to bottom."""

    title: str
    lead: str
    notices: Sequence[Notice]
    methods: Sequence[str]
    budgets: Sequence[str]
    results: Table
    notes: Sequence[str]
    beside: Table | None
    """Several sweeps side by side; None where there is one."""
    beside_notes: Sequence[str]
    plots: Sequence[Plot]
    """The mean over tasks first, then each task; empty where no method has a ratio."""
    legend: Sequence[Line]
    cost: Table
    cost_plots: Sequence[Plot]
    """Accuracy over FLOPs and, where there is a benchmark, over latency; empty where no method has a ratio."""
    cost_legend: Sequence[Line]
    pareto_notes: Sequence[str]
    breakdown: Sequence[Table]
    breakdown_notes: Sequence[str]
    splits: Table | None
    """Questions that need the tokens; None where vanilla or the methods were not measured."""
    split_notes: Sequence[str]
    questions: Questions
    cost_notes: Sequence[str]
    provenance: Sequence[tuple[str, Sequence[str]]]
    models: Sequence[str]
    config: str
