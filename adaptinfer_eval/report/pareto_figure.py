"""Accuracy over cost as a picture, PNG and SVG, the Pareto front marked. Readable without colour."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaptinfer_eval.drawing import COLOURS
from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report.figure import MARKERS
from adaptinfer_eval.report.pareto import Picture


def pareto_figure(pictures: Sequence[Picture], notes: Sequence[str]) -> Figure:
    """One axes per picture: x the cost in percent of vanilla's, y the accuracy ratio in percent with its interval."""
    figure = Figure(figsize=(1.5 + 4.8 * len(pictures), 4.6), layout="constrained")
    names = list(dict.fromkeys(name for picture in pictures for name in picture.series))
    row = figure.subplots(1, len(pictures), sharey=True, squeeze=False)[0]
    for axes, picture in zip(row, pictures, strict=True):
        _draw(axes, picture, names)
    row[0].set_ylabel("Accuracy ratio (%)")
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False)
    text = " ".join(["Bars: 95 % interval over questions; filled, and joined: the Pareto front.", *notes])
    figure.suptitle(text, x=0.995, ha="right", fontsize="x-small", color="0.35", wrap=True)
    return figure


def _draw(axes: Axes, picture: Picture, names: Sequence[str]) -> None:
    front = picture.front
    axes.plot(
        [spot.cost for spot in front],
        [spot.ratio.value for spot in front],
        color="0.6",
        linewidth=4,
        alpha=0.5,
        drawstyle="steps-post",
        zorder=1,
        label="Pareto front",
    )
    axes.axhline(100, color="0.25", linewidth=1)
    for name, spots in picture.series.items():
        number = names.index(name)
        colour = COLOURS[(number + number // len(MARKERS)) % len(COLOURS)]  # no two have colour and marker in common
        for place, spot in enumerate(spots):
            low, high = spot.ratio.interval or (spot.ratio.value, spot.ratio.value)
            axes.errorbar(
                spot.cost,
                spot.ratio.value,
                yerr=[[max(0.0, spot.ratio.value - low)], [max(0.0, high - spot.ratio.value)]],
                label="" if place else name,
                color=colour,
                marker=MARKERS[number % len(MARKERS)],
                markerfacecolor=colour if spot in front else "white",
                linestyle="none",
                elinewidth=0.8,
                capsize=2,
            )
    for spot in front:
        axes.annotate(
            budget_text(spot.tokens),
            (spot.cost, spot.ratio.value),
            xytext=(5, 5),
            textcoords="offset points",
            fontsize="x-small",
        )
    axes.set_xlabel(picture.axis)
    axes.set_title(picture.title, fontsize="medium")
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
