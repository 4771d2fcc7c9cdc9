"""The trend of the accuracy ratio over budgets as a picture, PNG and SVG. Readable without colour."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.typing import LineStyleType

from adaptinfer_eval.drawing import COLOURS
from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report.trend import Panel, Trends

MARKERS = ("o", "s", "^", "D", "*", "v", "P", "X")
DASHES: tuple[LineStyleType, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
DODGE = 1.012
"""Neighbouring methods stand this factor apart, so that intervals do not hide each other."""
MARGIN = 1.15


def trend_figure(trends: Trends) -> Figure:
    """One axes per panel: x the budget (logarithmic), y the accuracy ratio in percent with its 95 % interval."""
    figure = Figure(figsize=(1.5 + 3.6 * len(trends.panels), 4.2), layout="constrained")
    names = list(dict.fromkeys(name for panel in trends.panels for name in panel.series))
    row = figure.subplots(1, len(trends.panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(row, trends.panels, strict=True):
        _draw(axes, panel, names, trends.vanilla_tokens)
    row[0].set_ylabel("Accuracy ratio (%)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False)
    note = " ".join(["Bars: 95 % interval over questions.", *trends.notes])
    figure.suptitle(note, x=0.995, ha="right", fontsize="x-small", color="0.35")
    return figure


def _draw(axes: Axes, panel: Panel, names: list[str], vanilla_tokens: float) -> None:
    axes.axhline(100, color="0.25", linewidth=1, label=f"Vanilla ({vanilla_tokens:g} tokens)")
    for number, name in enumerate(names):
        points = panel.series.get(name, [])
        shift = DODGE ** (number - (len(names) - 1) / 2)
        values = np.array([point.ratio.value for point in points])
        ends = np.array([point.ratio.interval or (point.ratio.value, point.ratio.value) for point in points])
        axes.errorbar(
            [point.tokens * shift for point in points],
            values,
            yerr=np.abs(ends.reshape(-1, 2).T - values),
            label=name,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            linestyle=DASHES[number % len(DASHES)],
            markersize=7 if MARKERS[number % len(MARKERS)] == "*" else 5,
            linewidth=1.4,
            elinewidth=0.8,
            capsize=2,
        )
    budgets = sorted({point.tokens for points in panel.series.values() for point in points})
    axes.set_xscale("log")
    axes.set_xlim(budgets[0] / MARGIN, budgets[-1] * MARGIN)
    axes.xaxis.set_major_locator(FixedLocator(budgets))
    axes.xaxis.set_major_formatter(FixedFormatter([budget_text(budget) for budget in budgets]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Vision tokens per layer")
    axes.set_title(panel.title, fontsize="medium")
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
