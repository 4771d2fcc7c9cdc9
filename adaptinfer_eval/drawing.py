"""How figures look and are written: PNG and SVG, readable without colour, the same bytes for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.sweep.files import write_bytes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#7F7F7F")
"""Okabe and Ito's, told apart with any colour vision."""


def save_figure(draw: Callable[[], Figure], stem: Path) -> list[Path]:
    """Write what `draw` draws as `stem`.png and `stem`.svg; their paths. SweepError where `stem` is a folder."""
    if stem.is_dir():
        raise SweepError(f"{stem} is a folder: name the files to write, as in {stem / 'figure'}")
    png, svg = io.BytesIO(), io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "adaptinfer-eval", "text.parse_math": False}):
        figure = draw()
        figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    drawn = {stem.with_name(f"{stem.name}.png"): png, stem.with_name(f"{stem.name}.svg"): svg}
    for path, picture in drawn.items():
        write_bytes(path, picture.getvalue())
    return list(drawn)
