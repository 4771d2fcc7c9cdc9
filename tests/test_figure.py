"""Figure 5: every method's line is there with its values; both files are written, the same for the same records."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image
from sweep_folder import Sweep, joined, measured, record, sweep_of

from adaptinfer_eval.drawing import save_figure
from adaptinfer_eval.report.figure import DODGE, trend_figure
from adaptinfer_eval.report.trend import trends
from adaptinfer_eval.sweep.config import SweepError

TASKS = ("mini_mme", "mini_gqa", "mini_textvqa")
METHODS = {"fastv": 0.5, "pdrop": 0.6, "adaptinfer": 0.8}


def sweep() -> Sweep:
    """Three methods at three budgets; ToMe cannot run at 32; SparseVLM meets 32 with a schedule."""
    audit = {"entering": 51.0, "leaving": 32.2, "flops": 2e12}
    cannot = [record("tome", 32, task, None, status="cannot run", reason="too few layers") for task in TASKS]
    explicit = [measured("sparsevlm", None, t, 0.5, options={"schedule": "1:25"}, audit=audit) for t in TASKS]
    spare = [sweep_of(TASKS, [128, 64], {"tome": 0.4, "sparsevlm": 0.7}), (cannot, {}), *explicit]
    return joined(sweep_of(TASKS, [32, 64, 128], METHODS), *spare)


def bars_of(axes: Axes) -> dict[str, ErrorbarContainer]:
    return {str(bars.get_label()): bars for bars in axes.containers if isinstance(bars, ErrorbarContainer)}


def drawn(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Label → x and y of every line with error bars, read from the axes."""
    data = {label: np.array(bars.lines[0].get_data()) for label, bars in bars_of(axes).items()}
    return {label: (x.tolist(), y.tolist()) for label, (x, y) in data.items()}


def test_every_method_is_drawn_with_its_values() -> None:
    shown = trends(*sweep())
    figure = trend_figure(shown)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Mean of MME, GQA, TextVQA", "MME", "TextVQA"] == [panel.title for panel in shown.panels]
    for axes, panel in zip(figure.axes, shown.panels, strict=True):
        lines = drawn(axes)
        assert list(lines) == ["ToMe", "FastV", "PDrop", "SparseVLM", "AdaptInfer"]
        for name, points in panel.series.items():
            assert lines[name][1] == [point.ratio.value for point in points]
            assert lines[name][0] == pytest.approx([point.tokens for point in points], rel=DODGE**3 - 1)
        assert [[p.tokens for p in panel.series[name]] for name in ("ToMe", "SparseVLM")] == [[64, 128], [32, 64, 128]]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["32", "64", "128"]
    assert "Not measured: ToMe at 32." in shown.notes


def test_bars_are_the_intervals_and_vanilla_is_the_line_at_100() -> None:
    shown = trends(*sweep())
    axes = trend_figure(shown).axes[0]
    (segments,) = (collection.get_segments() for collection in bars_of(axes)["AdaptInfer"].lines[2])
    intervals = [point.ratio.interval for point in shown.panels[0].series["AdaptInfer"]]
    assert np.array(segments)[:, :, 1] == pytest.approx(np.array(intervals))
    vanilla = next(line for line in axes.lines if line.get_label() == "Vanilla (576 tokens)")
    assert np.array(vanilla.get_ydata()).tolist() == [100, 100]


def styles(figure: Figure) -> set[tuple[str, str]]:
    lines = [bars.lines[0] for bars in bars_of(figure.axes[0]).values()]
    return {(str(line.get_marker()), str(vars(line)["_dash_pattern"])) for line in lines}


def test_lines_are_told_apart_without_colour() -> None:
    names = [f"method{number}" for number in range(14)]
    figure = trend_figure(trends(*sweep_of(TASKS, [64], dict.fromkeys(names, 0.5))))
    assert len(styles(figure)) == len(names)


def test_both_files_are_written_and_the_same_again(tmp_path: Path) -> None:
    shown = trends(*sweep())
    first, second = (save_figure(lambda: trend_figure(shown), tmp_path / name / "figure5.v2") for name in ("a", "b"))
    assert [path.name for path in first] == ["figure5.v2.png", "figure5.v2.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    with Image.open(first[0]) as image:
        assert image.width > 1000
    assert ElementTree.parse(first[1]).getroot().tag.endswith("svg")


def test_one_task_has_one_panel_and_a_limit_is_said() -> None:
    shown = trends(*sweep_of(TASKS[:1], [64], METHODS, questions=100))
    assert [panel.title for panel in shown.panels] == ["MME"]
    assert shown.notes == ["Only the first 100 questions of a task."]
    assert len(drawn(trend_figure(shown).axes[0])) == 3


def test_methods_with_two_settings_at_one_budget_have_lines_of_their_own() -> None:
    twice = [measured("fastv", 64, task, 0.7, options={"schedule": "3:30"}) for task in TASKS]
    shown = trends(*joined(sweep_of(TASKS, [64], METHODS), *twice))
    assert list(shown.panels[0].series) == ["FastV", "FastV (schedule=3:30)", "PDrop", "AdaptInfer"]


def test_without_vanilla_there_is_nothing_to_draw() -> None:
    records, scores = sweep_of(TASKS, [64], METHODS)
    with pytest.raises(SweepError, match="finish the sweep first"):
        trends([one for one in records if one["method"] != "vanilla"], scores)
