"""What choosing tokens costs: all that a method itself computes, apart from the model that it prunes."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch

from adaptinfer_eval.bench.measure import Subject

HOOKS = ("select", "assign", "prepare", "score", "merge")
"""Where a method computes: before the decoder, inside the tower, and at its stages."""


def watched(method: Any, around: Callable[[], AbstractContextManager[Any]]) -> Any:
    """The same method, which does what it computes inside of `around()`, in each place where it acts."""
    copied = copy.copy(method)

    def surrounded(hook: Callable[..., Any]) -> Callable[..., Any]:
        def compute(*values: Any) -> Any:
            with around():
                return hook(*values)

        return compute

    def replaced(place: Callable[[int], Any]) -> Callable[[int], Any]:
        def found(num_layers: int) -> Any:
            part = place(num_layers)
            return copied if part is method else part and watched(part, around)

        return found

    # A method is frozen, and this one is nobody else's.
    for name in filter(lambda name: hasattr(method, name), HOOKS):
        object.__setattr__(copied, name, surrounded(getattr(method, name)))
    for name in ("before", "inside"):
        object.__setattr__(copied, name, replaced(getattr(method, name)))
    return copied


def choosing_share(subject: Subject, runs: int = 3) -> float:
    """Share of a prefill with its images in which the method computes, median of `runs`.

    The host waits for the device before and after all that it computes, which the timed rounds are spared.
    """
    return statistics.median(_share(subject) for _ in range(runs))


def _share(subject: Subject) -> float:
    device, seconds = subject.model.device, 0.0

    @contextmanager
    def timed() -> Iterator[None]:
        nonlocal seconds
        began = _now(device)
        yield
        seconds += _now(device) - began

    with replace(subject, method=watched(subject.method, timed)).attached():
        began = _now(device)
        subject.model(**subject.inputs, use_cache=True, logits_to_keep=1)
        return seconds / (_now(device) - began)


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
