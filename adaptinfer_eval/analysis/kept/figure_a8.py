"""Figure A.8: questions that one method answers right and another wrong, with the text tokens that guided them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from adaptinfer_eval.analysis.kept.draw import enlarged
from adaptinfer_eval.analysis.kept.guidance import SHARE, Guidance
from adaptinfer_eval.analysis.kept.marked_text import Placed, place
from adaptinfer_eval.analysis.kept.question import Question
from adaptinfer_eval.drawing import COLOURS

PICTURE, TEXT, ROW, GAP = 2.2, 6.6, 0.4, 0.2
"""Inches: of a picture, of the text's width, of a row of it, and between parts."""
SIZE = 10
"""Points of the letters."""
LETTER = SIZE * 0.602 / 72
"""Inches: a letter's width in DejaVu Sans Mono."""
BOX, LINE = COLOURS[1], COLOURS[0]


class Guided(NamedTuple):
    """A question with its two answers, and what guided the first method (better) and the second (worse)."""

    question: Question
    better: Guidance
    worse: Guidance


def guidance_figure(guided: Sequence[Guided], note: str) -> Figure:
    """A block for each question: its picture, its text with two kinds of marks, both answers. `note` stands above."""
    blocks = [place(one.better.pieces, _marked(one), int(TEXT / LETTER)) for one in guided]
    answers = [_answers(one.question) for one in guided]
    heights = [
        max(PICTURE, 0.6 + ROW * (1 + block[-1].row) + 0.2 * len(lines)) + GAP
        for block, lines in zip(blocks, answers, strict=True)
    ]
    above = textwrap.wrap(note, int(14 * (PICTURE + TEXT)))
    head = 0.2 * len(above) + 2 * GAP
    figure = Figure(figsize=(PICTURE + TEXT + 3 * GAP, head + sum(heights)))
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, figure.get_figwidth()), ylim=(figure.get_figheight(), 0))  # in inches, from the top left
    page.set_axis_off()
    page.text(GAP, GAP, "\n".join(above), va="top", fontsize=9, color="0.25", linespacing=1.3)
    for number, (one, block, lines) in enumerate(zip(guided, blocks, answers, strict=True)):
        _draw_block(page, one, block, lines, head + sum(heights[:number]))
    return figure


def legend(better: str, worse: str, guided: Guided) -> str:
    """What the two marks mean."""
    share = f"the {100 * SHARE:g} % with the most weight, and all that have as much"
    return (
        f"Boxed: text tokens that guided {better}, numbered by its stages ({_stages(guided.better)}). "
        f"Underlined: those that guided {worse}{_numbering(guided.worse)}. Of a stage, {share}."
    )


def _stages(guidance: Guidance) -> str:
    return ", ".join(f"{number}: after layer {layer}" for number, layer in enumerate(guidance.key, 1))


def _numbering(guidance: Guidance) -> str:
    return f", numbered likewise ({_stages(guidance)})" if _differ(guidance) else ", the same ones at every stage"


def _differ(guidance: Guidance) -> bool:
    first, *others = guidance.key.values()
    return any((key != first).any() for key in others)


def _marked(guided: Guided) -> set[int]:
    keys = [*guided.better.key.values(), *guided.worse.key.values()]
    return {int(token) for key in keys for token in key.nonzero()[0]}


def _numbers(guidance: Guidance, token: int) -> str:
    """The stages at which a token is a key one, `13`."""
    return "".join(str(number) for number, key in enumerate(guidance.key.values(), 1) if key[token])


def _draw_block(page: Axes, guided: Guided, block: Sequence[Placed], answers: Sequence[str], top: float) -> None:
    question, left = guided.question, PICTURE + 2 * GAP
    extent = (GAP, GAP + PICTURE, top + PICTURE, top)
    page.imshow(enlarged(question.image, 1), extent=extent, aspect="auto", interpolation="none")
    page.text(left, top, question.where, va="top", fontsize=9, color="0.25")
    numbered = _differ(guided.worse)
    down = top + 0.5
    for spot in block:
        x, y, width = left + spot.column * LETTER, down + spot.row * ROW, len(spot.letters) * LETTER
        if stages := _numbers(guided.better, spot.token):
            page.add_patch(Rectangle((x, y - 0.09), width, 0.18, facecolor=BOX + "40", edgecolor=BOX, linewidth=1))
            page.text(x + width / 2, y - 0.1, stages, ha="center", va="bottom", fontsize=5.5, color=BOX)
        if stages := _numbers(guided.worse, spot.token):
            page.plot([x + 0.01, x + width - 0.01], [y + 0.125] * 2, color=LINE, lw=2.4, solid_capstyle="butt")
            if numbered:
                page.text(x + width / 2, y + 0.14, stages, ha="center", va="top", fontsize=5.5, color=LINE)
        page.text(x, y, spot.letters, va="center_baseline", fontsize=SIZE, family="monospace")
    below = down + ROW * (1 + block[-1].row)
    page.text(left, below, "\n".join(answers), va="top", fontsize=SIZE)


def _answers(question: Question) -> list[str]:
    """Lines with both answers and the right one."""
    answers = [f"{answer.method}: {answer}" for answer in question.answers]
    return [line for text in [*answers, f"Right answer: {question.target}"] for line in textwrap.wrap(text, 80)]
