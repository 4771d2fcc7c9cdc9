"""The layers that a shift.json proposes, as one more method of a sweep."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.method import get_method
from adaptinfer_eval.sweep.errors import SweepError

METHOD = "adaptinfer"


def read_shift(path: str) -> dict[str, Any]:
    """What a sweep keeps of a shift.json: `path`, `num_layers` and the proposed `layers`, written `1,10,20`.

    SweepError where there is no such file, it is damaged, or nothing is proposed in it.
    """
    if not Path(path).is_file():
        raise SweepError(f"shift: there is no file {path}: write it with `adaptinfer-eval shift`, or leave shift out")
    try:
        written = json.loads(Path(path).read_text(encoding="utf-8"))
        num_layers, proposed = written["layers"], written["proposed"]
        layers = proposed["layers"] if proposed else []
        damaged = not _are_stages(layers, num_layers)
    except (ValueError, KeyError, TypeError, RecursionError):
        damaged = True
    if damaged:
        raise SweepError(f"shift: {path} is not what `adaptinfer-eval shift` writes: write it again")
    if not layers:
        raise SweepError(
            f"shift: {path} proposes no layers, the shifts are not dense in two regions: leave shift out, or choose "
            f"layers yourself, as in methods=[{{name: {METHOD}, layers: '1,10,20'}}]"
        )
    return {"path": path, "num_layers": num_layers, "layers": ",".join(map(str, layers))}


def _are_stages(layers: Any, num_layers: Any) -> bool:
    """Whether `layers` increase and a model of `num_layers` has a layer after each."""
    whole = all(type(number) is int for number in [num_layers, *layers])
    return whole and all(a < b for a, b in pairwise([-1, *layers, num_layers - 1]))


def measured_already(layers: str, num_layers: int, methods: Iterable[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether one of `methods`, names with options, is AdaptInfer at these layers; its own in a model so deep count."""
    return any(_layers_of(name, options, num_layers) == layers for name, options in methods)


def _layers_of(name: str, options: Mapping[str, Any], num_layers: int) -> str:
    """Where a method prunes that is AdaptInfer with no other option; else empty."""
    if name != METHOD or not options.keys() <= {"layers"}:
        return ""
    if "layers" in options:
        return str(options["layers"]).replace("/", ",").replace(" ", "")
    method = get_method(METHOD)(budget=1)
    assert isinstance(method, LayerMethod)
    return ",".join(map(str, method.stage_layers(num_layers)))
