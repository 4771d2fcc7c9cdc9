"""Figure A.7: what is left of a picture after each stage, a row for each method, its answer beside it."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaptinfer_eval.analysis.kept.draw import enlarged, stage_images
from adaptinfer_eval.analysis.kept.question import Answer, Question

WIDTH = 2.3
"""Inches of a picture."""
LETTERS, LINE = 11, 0.19
"""To an inch, and inches of a line of them."""
COLUMNS = 3
"""At least so many pictures wide, or there is no room for the question."""
NOTE = (
    "Kept patches are clear, dropped ones dimmed; those that were merged into one token have their mean colour, and "
    "lines around them."
)


def kept_figure(question: Question) -> Figure:
    """The picture and the question first; methods that drop nothing have their answer there."""
    pruning = [answer for answer in question.answers if answer.stages]
    columns = max([COLUMNS, *(len(answer.stages) for answer in pruning)])
    whole = [answer for answer in question.answers if not answer.stages]
    asked = _lines(question, whole, int(columns * WIDTH * LETTERS))
    heights = [max(WIDTH, LINE * len(asked)) + 0.3, *[WIDTH + 0.3] * len(pruning)]
    figure = Figure(figsize=(WIDTH * (columns + 1), sum(heights) + 0.3), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns + 1, height_ratios=heights)
    _show(figure.add_subplot(grid[0, 0]), "as the model saw it", enlarged(question.image, 1))
    _write(figure.add_subplot(grid[0, 1:]), "\n".join(asked))
    for row, answer in enumerate(pruning, 1):
        text = textwrap.fill(str(answer), int(WIDTH * LETTERS))
        _write(figure.add_subplot(grid[row, 0]), text, title=answer.method)
        for column, (title, image) in enumerate(stage_images(question.image, answer.stages), 1):
            _show(figure.add_subplot(grid[row, column]), title, image)
    note = textwrap.fill(NOTE, int(WIDTH * (columns + 1) * LETTERS))
    figure.supxlabel(note, x=0.01, ha="left", fontsize="small", color="0.35")
    return figure


def _lines(question: Question, whole: list[Answer], width: int) -> list[str]:
    asked = [line for part in question.text.splitlines() for line in textwrap.wrap(part, width)]
    target = [f"Right answer: {question.target}"] if question.target else []
    return [question.where, "", *asked, "", *target, *(f"{answer.method}: {answer}" for answer in whole)]


def _show(axes: Axes, title: str, image: object) -> None:
    axes.imshow(image, interpolation="none")  # type: ignore[arg-type]
    axes.set_title(title, fontsize="small")
    axes.set_axis_off()


def _write(axes: Axes, text: str, title: str = "") -> None:
    axes.set_axis_off()
    axes.text(0, 1, title, transform=axes.transAxes, va="top", weight="bold")
    axes.text(0, 0.88 if title else 1, text, transform=axes.transAxes, va="top", fontsize="medium")
