"""Scores by category (MME's 14, MMBench's L2, GQA's types) with intervals, and where methods differ most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report.bootstrap import interval, mean_units, resampled_scores
from adaptinfer_eval.report.rows import Line
from adaptinfer_eval.sweep.units import Units

MOST = 5
"""Categories that are shown first."""


@dataclass(frozen=True)
class Score:
    """`interval`: 95 %, over the category's questions."""

    value: float
    interval: tuple[float, float] | None

    def text(self) -> str:
        between = "" if self.interval is None else " ({:.1f}–{:.1f})".format(*self.interval)
        return f"{self.value:.1f}{between}"


@dataclass(frozen=True)
class Category:
    """A category of a column at one budget, with the score of every line; `questions`: of its units."""

    heading: str
    name: str
    questions: int
    budget: float
    scores: Mapping[str, Score]
    """By the line's title; vanilla and others without a budget are there at every one."""
    top: float
    """The best score that there can be."""
    fixed: frozenset[str]
    """The titles of lines without this budget."""

    @property
    def ends(self) -> tuple[str, str]:
        """Titles of the best and the worst of the methods at the budget."""
        own = {title: score.value for title, score in self.scores.items() if title not in self.fixed}
        return max(own, key=lambda title: own[title]), min(own, key=lambda title: own[title])

    @property
    def spread(self) -> float:
        """How far apart the best and the worst are, as a share of the best that there can be."""
        best, worst = (self.scores[title].value for title in self.ends)
        return (best - worst) / self.top


def categories_of(lines: Sequence[Line], heading: str, units: Mapping[str, Units]) -> list[Category]:
    """Every category at every budget; empty for a column without categories."""
    measured = [line for line in lines if line.cells[heading].status == "done"]
    made = [mean_units([units[record["id"]] for record in line.cells[heading].measured]) for line in measured]
    names = sorted(set(made[0].categories) - {""}) if made else []
    found = []
    for name in names:
        chosen = np.flatnonzero(np.array(made[0].categories) == name)
        parts = [one.part(chosen) for one in made if one.ids == made[0].ids]
        drawn = resampled_scores(parts, f"{heading}/{name}")
        scores = [Score(part.score(), interval(drawn[:, place])) for place, part in enumerate(parts)]
        top = parts[0].scale * (2.0 if parts[0].combine == "sum of category means" else 1.0)  # MME: + 1 for both right
        fixed = {line.place.title: n for n, line in enumerate(measured) if line.method == "vanilla"}
        for budget in dict.fromkeys(line.tokens for line in measured if line.method != "vanilla"):
            own = {line.place.title: n for n, line in enumerate(measured) if line.tokens == budget} | fixed
            shown = {title: scores[own[title]] for title in dict.fromkeys([*fixed, *own])}
            found.append(Category(heading, name, len(chosen), budget, shown, top, frozenset(fixed)))
    return found


def most_different(categories: Sequence[Category], most: int = MOST) -> list[Category]:
    """Those in which the methods at one budget differ most."""
    several = [one for one in categories if len(one.scores.keys() - one.fixed) > 1]
    return sorted(several, key=lambda one: -one.spread)[:most]


def difference_text(one: Category) -> str:
    """In a sentence, where methods differ."""
    best, worst = one.ends
    return (
        f"{one.heading}, {one.name} at {budget_text(one.budget)} ({one.questions} questions): "
        f"{best} {one.scores[best].text()}, {worst} {one.scores[worst].text()}"
    )


def category_rows(categories: Sequence[Category]) -> list[dict[str, str]]:
    """A row per category and budget, a column per line."""
    titles = list(dict.fromkeys(title for one in categories for title in one.scores))
    return [
        {
            "Column": one.heading,
            "Category": one.name,
            "Questions": str(one.questions),
            "Avg. tokens": budget_text(one.budget),
            **{title: one.scores[title].text() if title in one.scores else "–" for title in titles},
        }
        for one in categories
    ]
