"""Where the time of a pruned prefill goes: layers between two stages, and the stages themselves.

    python benchmarks/stages.py [--runs 9] [--hidden 512] [--layers 32] [--budget 64]

The setting of prefill.py. "rows": what the layer before a stage takes beyond the others of its kind, which is the
attention rows that the method looks at. "choose": scoring, choosing and gathering, between two layers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from setting import METHODS, VISION, decoder, options, prompt
from tabulate import tabulate

import adaptinfer_eval as ae

Times = list[list[float]]
"""By layer."""


@contextmanager
def watched(layers: list[Any], before: bool, times: Times) -> Iterator[None]:
    """Note when each layer is reached, in front of all other pre-hooks (`before`); or when it then begins, and ends."""
    handles = []
    for index, layer in enumerate(layers):

        def note(*_: Any, index: int = index) -> None:
            times[index].append(time.perf_counter())

        handles.append(layer.register_forward_pre_hook(note, prepend=before))
        if not before:
            handles.append(layer.register_forward_hook(note))
    yield
    for handle in handles:
        handle.remove()


def main() -> None:
    asked = options(__doc__)
    model, (embeds, mask) = decoder(asked.hidden, asked.layers), prompt(asked.hidden)
    layers = list(model.model.layers)
    rows = []
    for name in METHODS:
        method = ae.get_method(name)(budget=asked.budget)
        choosing: Times = [[] for _ in layers]
        running: Times = [[] for _ in layers]
        with torch.inference_mode():
            for run in range(asked.runs + 1):
                times: Times = [[] for _ in layers]
                with (
                    watched(layers, True, times),
                    ae.pruned(model, method, vision_mask=mask),
                    watched(layers, False, times),
                ):
                    model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
                for layer, (reached, began, ended) in enumerate(times):
                    if run:  # the first warms up
                        choosing[layer].append(began - reached)
                        running[layer].append(ended - began)
        choose, run_ms = ([1e3 * statistics.median(values) for values in part] for part in (choosing, running))
        rows += _rows(name, method.entering(asked.layers, VISION), choose, run_ms, embeds.shape[1] - VISION)
    headers = ("method", "layers", "tokens", "ms a layer", "ms", "share", "rows ms", "choose ms")
    print(tabulate(rows, headers, "github", disable_numparse=True))


def _rows(name: str, entering: list[int], choose: list[float], run: list[float], text: int) -> list[tuple[str, ...]]:
    """A line per segment; rows and choosing stand with the segment that they end."""
    starts = [0, *(i for i in range(1, len(entering)) if entering[i] != entering[i - 1]), len(entering)]
    whole = sum(choose) + sum(run)
    rows: list[tuple[str, ...]] = []
    for start, end in pairwise(starts):
        inside, is_last = run[start:end], end == len(entering)
        plain = statistics.median(inside[:-1] if len(inside) > 1 and not is_last else inside)
        spent = sum(inside) + sum(choose[start + 1 : end]) + (0 if is_last else choose[end])
        beyond = ("", "") if is_last else (f"{inside[-1] - plain:.2f}", f"{choose[end]:.2f}")
        place = (f"{start}–{end - 1}", str(entering[start] + text))
        rows.append((name, *place, f"{plain:.2f}", f"{spent:.1f}", f"{100 * spent / whole:.1f} %", *beyond))
    return rows


if __name__ == "__main__":
    main()
