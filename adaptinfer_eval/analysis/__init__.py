"""A look inside: where attention shifts, which text guides a method, and which patches it keeps."""

from __future__ import annotations

from adaptinfer_eval.analysis.change import change_points
from adaptinfer_eval.analysis.proposal import propose_layers

__all__ = ["change_points", "propose_layers"]
