"""Answers as HTML: a table of numbers, and what every method keeps after each stage, drawn on the picture."""

from __future__ import annotations

from dataclasses import dataclass

from adaptinfer_eval.analysis.kept.asking import TOKENS
from adaptinfer_eval.analysis.kept.draw import enlarged, stage_images
from adaptinfer_eval.analysis.kept.picture import data_uri
from adaptinfer_eval.demo.answers import Answers, Row
from adaptinfer_eval.report.page.templates import template
from adaptinfer_eval.report.units import flops_unit

PACKAGE = "adaptinfer_eval.demo"


@dataclass(frozen=True)
class Drawing:
    """A picture as a `data:` address, and the line below it."""

    title: str
    uri: str


def as_html(answers: Answers) -> str:
    """All texts are escaped."""
    rows = [row for row in answers.rows if isinstance(row, Row)]
    most = max((row.macs for row in rows), default=0.0)
    drawings = {
        row.title: [Drawing(title, data_uri(image)) for title, image in stage_images(answers.image, row.stages)]
        for row in rows
        if row.stages
    }
    return template(PACKAGE, "answers").render(
        answers=answers,
        refused=[row for row in answers.rows if not isinstance(row, Row)],
        rows=rows,
        seen=data_uri(enlarged(answers.image, 1)),
        drawings=drawings,
        columns=max(map(len, drawings.values()), default=1),
        most_tokens=TOKENS,
        unit=flops_unit(most),
    )


def problem_html(problem: str) -> str:
    """Why there are no answers."""
    return template(PACKAGE, "problem").render(problem=problem)
