"""Figures 2, 3 and A.6: the numbers that they were given are in them, told apart without colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from PIL import Image

from adaptinfer_eval.analysis.figures import SHOWN_LAYERS, overlap_figure, shift_figure
from adaptinfer_eval.drawing import save_figure

HISTOGRAMS = {"MME": [0, 30, 0, 5, 5, 0, 0, 0], "TextVQA": [0, 0, 0, 0, 0, 0, 7, 0]}


def bars_of(axes: Axes) -> dict[str, BarContainer]:
    return {str(bars.get_label()): bars for bars in axes.containers if isinstance(bars, BarContainer)}


def test_every_task_has_its_shares_at_the_layers() -> None:
    (axes,) = shift_figure(HISTOGRAMS).axes
    for title, bars in bars_of(axes).items():
        counts = np.array(HISTOGRAMS[title])
        assert [bar.get_height() for bar in bars] == pytest.approx(100 * counts / counts.sum())
        assert [round(bar.get_x() + bar.get_width() / 2) for bar in bars] == list(range(8))
    first, second = bars_of(axes).values()
    assert all(a.get_x() + a.get_width() <= b.get_x() + 1e-9 for a, b in zip(first, second, strict=True))


def test_tasks_are_told_apart_without_colour() -> None:
    (axes,) = shift_figure({f"task{number}": [1, 2, 3, 4] for number in range(8)}).axes
    assert len({bars[0].get_hatch() for bars in bars_of(axes).values()}) == 8


def test_proposed_layers_are_marked_and_named() -> None:
    figure = shift_figure(HISTOGRAMS, proposed=[1, 3, 4], samples={"MME": 1000, "TextVQA": 12})
    (axes,) = figure.axes
    assert [np.asarray(line.get_xdata())[0] for line in axes.lines] == [1, 3, 4]
    assert [text.get_text() for text in axes.texts] == ["1", "3", "4"]
    assert figure.get_suptitle() == "Dashed: layers to prune after (1, 3, 4)."
    assert list(bars_of(axes)) == ["MME (1,000 samples)", "TextVQA (12 samples)"]
    assert shift_figure(HISTOGRAMS).get_suptitle() == "No layers are proposed."


def test_a_task_without_a_shift_has_no_bars() -> None:
    (axes,) = shift_figure({"MME": [0, 0, 0, 0]}).axes
    assert [bar.get_height() for bar in bars_of(axes)["MME"]] == [0, 0, 0, 0]


@pytest.mark.parametrize(("layers", "shown"), [(8, 8), (32, SHOWN_LAYERS), (40, SHOWN_LAYERS)])
def test_the_heat_map_has_the_numbers_of_the_layers_that_it_shows(layers: int, shown: int) -> None:
    overlap = np.arange(layers**2).reshape(layers, layers) / layers**2
    np.fill_diagonal(overlap, 1)
    figure = overlap_figure(overlap, "TextVQA")
    axes = figure.axes[0]
    chosen = [int(label.get_text()) for label in axes.get_xticklabels()]
    assert (len(chosen), chosen[0], chosen[-1]) == (shown, 0, layers - 1)
    assert set(np.diff(chosen)) <= {(layers - 1) // (shown - 1), -(-(layers - 1) // (shown - 1))}
    written = [float(text.get_text()) for text in axes.texts]
    assert written == pytest.approx(overlap[np.ix_(chosen, chosen)].ravel(), abs=0.0051)
    assert figure.get_suptitle() == ("" if shown == layers else f"{shown} of {layers} layers, evenly chosen.")


def test_a_pair_of_layers_without_a_number_says_so() -> None:
    assert [text.get_text() for text in overlap_figure([[1, np.nan], [np.nan, 1]]).axes[0].texts] == [
        "1",
        "–",
        "–",
        "1",
    ]


def test_both_files_are_written_and_fit_their_page(tmp_path: Path) -> None:
    for stem, draw in {
        "figure3": lambda: shift_figure(HISTOGRAMS, proposed=[1, 3, 4]),
        "figure2": lambda: overlap_figure(np.eye(32)),
    }.items():
        png, svg = save_figure(draw, tmp_path / stem)
        assert (png.suffix, svg.suffix) == (".png", ".svg")
        edges = np.asarray(Image.open(png).convert("L"))
        assert (edges[[0, -1]] == 255).all()
        assert (edges[:, [0, -1]] == 255).all()


@pytest.mark.parametrize("name", ["mme", "adaptinfer_scienceqa_img"])
def test_names_of_tasks_are_within_the_figure(name: str) -> None:
    titles = [f"{name}_{number}" for number in range(5)]
    figure = shift_figure({title: [1.0] * 32 for title in titles}, samples=dict.fromkeys(titles, 1000))
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
