"""Figures 2, 3 and A.6 of the paper from their numbers: readable without colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from adaptinfer_eval.drawing import COLOURS

HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "+++", "---")
SHOWN_LAYERS = 12
"""At most so many rows of a heat map: with more, its numbers cannot be read."""


def shift_figure(
    histograms: Mapping[str, Sequence[float]], proposed: Sequence[int] = (), samples: Mapping[str, int] | None = None
) -> Figure:
    """Figures 3 and A.6: the share of attention shifts at each layer, the bars of several tasks side by side.

    `histograms`: title of a task → (L,) shifts at each layer; `proposed`: layers to mark; `samples` by title.
    """
    num_layers = max(map(len, histograms.values()))
    figure = Figure(figsize=(max(5.0, 2.5 + 0.17 * num_layers), 3.4), layout="constrained")
    axes = figure.subplots()
    width = 0.84 / len(histograms)
    for layer in proposed:
        axes.axvline(layer, color="0.45", linewidth=1, linestyle=(0, (4, 2)), zorder=0)
        axes.annotate(
            str(layer),
            (layer, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize="small",
            fontweight="bold",
        )
    for number, (title, counts) in enumerate(histograms.items()):
        shifts = np.asarray(counts, dtype=float)
        asked = f" ({samples[title]:,} samples)" if samples else ""
        axes.bar(
            np.arange(len(shifts)) + (number - (len(histograms) - 1) / 2) * width,
            100 * shifts / max(shifts.sum(), 1e-300),
            width,
            label=title + asked,
            facecolor=COLOURS[number % len(COLOURS)],
            edgecolor="white",
            linewidth=0.3,
            hatch=HATCHES[number % len(HATCHES)],
        )
    axes.set_xlim(-0.7, num_layers - 0.3)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("Layer")
    axes.set_ylabel("Share of attention shifts (%)")
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    longest = max(len(text) for text in axes.get_legend_handles_labels()[1])
    columns = int(figure.get_figwidth() / (0.7 + 0.08 * longest))  # inches: of a key, of a letter
    figure.legend(loc="outside lower center", ncols=max(columns, 1), frameon=False, fontsize="small")
    note = (
        f"Dashed: layers to prune after ({', '.join(map(str, proposed))})." if proposed else "No layers are proposed."
    )
    figure.suptitle(note, x=0.995, ha="right", fontsize="x-small", color="0.35")
    return figure


def overlap_figure(overlap: ArrayLike, title: str = "") -> Figure:
    """Figure 2: the mean IoU of key text tokens between layers, (L, L), as a heat map with its numbers.

    Of a model with more than SHOWN_LAYERS layers, evenly chosen ones, the first and the last among them.
    """
    means = np.asarray(overlap, dtype=float)
    num_layers = len(means)
    shown = np.unique(np.linspace(0, num_layers - 1, min(num_layers, SHOWN_LAYERS)).round().astype(int))
    picture = means[np.ix_(shown, shown)]
    size = 1.6 + 0.46 * len(shown)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(picture, cmap="Greys", vmin=0, vmax=1)
    for row, column in np.ndindex(*picture.shape):
        value = picture[row, column]
        text = "–" if np.isnan(value) else f"{value:.2f}".replace("0.", ".") if value < 0.995 else "1"
        axes.text(
            column, row, text, ha="center", va="center", fontsize="small", color="white" if value > 0.6 else "black"
        )
    axes.set_xticks(range(len(shown)), map(str, shown))
    axes.set_yticks(range(len(shown)), map(str, shown))
    axes.set_xlabel("Layer")
    axes.set_ylabel("Layer")
    axes.set_title(title, fontsize="medium")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, shrink=0.8, label="Mean IoU of key text tokens")
    if len(shown) < num_layers:
        note = f"{len(shown)} of {num_layers} layers, evenly chosen."
        figure.suptitle(note, x=0.995, ha="right", fontsize="x-small", color="0.35")
    return figure
