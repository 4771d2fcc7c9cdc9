"""One round of one configuration: each part of a request timed by itself.

The parts, and what is inside and outside of them, are described in docs/cost.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import adaptinfer_eval as ae
from adaptinfer_eval.backbones import anatomy_of
from adaptinfer_eval.bench.memory import peak_bytes
from adaptinfer_eval.bench.operations import Operations
from adaptinfer_eval.pruning.releases import CACHE, cache_of

Sample = dict[str, float]
"""Name of a number → its value in one round; times in seconds."""


@dataclass(frozen=True)
class Subject:
    """`method` on `model`, asked `inputs` for `new_tokens` each; vanilla (None) is the model with nothing attached."""

    model: Any
    method: ae.Method | None
    inputs: dict[str, Tensor]
    new_tokens: int

    def attached(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.method is None else ae.pruned(self.model, self.method)

    def generate(self, new_tokens: int) -> Any:
        """A request from prompt to answer, attaching the method included."""
        with self.attached():
            return self.model.generate(**self.inputs, max_new_tokens=new_tokens)


class Mark(NamedTuple):
    """A point in time: by the wall, and on an accelerator the events that end what was before and start what comes."""

    wall: float
    end: Any = None
    start: Any = None


class Clock:
    """Marks points in time at which `device` has nothing to do."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[Mark] = []

    def mark(self) -> None:
        """Wait for the device, so that what came before is not counted to what comes after."""
        if self.device.type == "cpu":
            self.marks.append(Mark(time.perf_counter()))
            return
        end = self._event()
        torch.accelerator.synchronize(self.device)
        self.marks.append(Mark(time.perf_counter(), end, self._event()))

    def between(self, start: int, end: int, name: str) -> Sample:
        """Seconds from mark `start` to mark `end`: `name` by the wall, `name`_device by events."""
        first, last = self.marks[start], self.marks[end]
        wall = {name: last.wall - first.wall}
        return wall if last.end is None else {**wall, f"{name}_device": first.start.elapsed_time(last.end) / 1e3}

    def _event(self) -> Any:
        event = torch.Event(self.device, enable_timing=True)
        event.record()
        return event


def sample(subject: Subject) -> Sample:
    """Measure everything that has a duration once."""
    model, inputs, steps = subject.model, subject.inputs, subject.new_tokens - 1
    clock = Clock(model.device)
    with subject.attached():
        with _before(decoder(model), clock.mark):
            clock.mark()  # 0; mark 1 is the hook's
            output = model(**inputs, use_cache=True, logits_to_keep=1)
            token, cache = output.logits[:, -1:].argmax(-1), cache_of(output)
            clock.mark()
        for _ in range(steps):
            token = model(input_ids=token, use_cache=True, **{CACHE: cache}).logits[:, -1:].argmax(-1)
        clock.mark()
    del output, cache
    clock.mark()
    subject.generate(1)
    clock.mark()
    subject.generate(subject.new_tokens)
    clock.mark()
    assert len(clock.marks) == 7, "the decoder did not run exactly once in a prefill"
    parts = ("images", "prefill", "decode", None, "first_token", "request")
    measured: Sample = {}
    for start, name in enumerate(parts):
        measured |= {} if name is None else clock.between(start, start + 1, name)
    batch = len(inputs["input_ids"])
    measured["decode_tokens_per_second"] = batch * steps / measured["decode"]
    measured["requests_per_second"] = batch / measured["request"]
    return measured


def sizes(subject: Subject) -> dict[str, int]:
    """What has no duration.

    Bytes of the key-value cache after prefill, and at most needed by a whole request beside weights and inputs;
    operations of a prefill with its images, and of a decode step.
    """
    model, inputs = subject.model, subject.inputs
    prefill, decode = Operations(), Operations()
    with subject.attached():
        with prefill:
            output = model(**inputs, use_cache=True, logits_to_keep=1)
        cache = cache_of(output)
        stored = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
        token = output.logits[:, -1:].argmax(-1)
        with decode:
            model(input_ids=token, use_cache=True, **{CACHE: cache})
    del output, cache
    return {
        "cache_bytes": stored,
        "peak_bytes": peak_bytes(lambda: subject.generate(subject.new_tokens), model.device),
        "prefill_operations": prefill.seen.total(),
        "decode_operations": decode.seen.total(),
    }


def kernels(subject: Subject) -> dict[str, float]:
    """Of one prefill with its images on an accelerator: seconds that kernels ran, and how many there were.

    Where the kernels' seconds are far below `images` + `prefill`, the device waits for the host: launch-bound.
    """
    from torch.autograd.profiler_util import DeviceType  # type: ignore[attr-defined]
    from torch.profiler import ProfilerActivity, profile

    with subject.attached(), profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        subject.model(**subject.inputs, use_cache=True, logits_to_keep=1)
        torch.accelerator.synchronize(subject.model.device)
    on_device = [e for e in profiled.key_averages() if e.device_type != DeviceType.CPU]
    return {
        "kernel_seconds": sum(event.self_device_time_total for event in on_device) / 1e6,
        "kernels": sum(event.count for event in on_device),
    }


def decoder(model: Any) -> Any:
    """The module that gets embeddings of text and images and runs the decoder layers."""
    return anatomy_of(model).text


@contextmanager
def _before(module: nn.Module, mark: Callable[[], None]) -> Iterator[None]:
    # First in line: what a method does before the first layer is part of prefill.
    handle = module.register_forward_pre_hook(lambda *_: mark(), prepend=True)
    try:
        yield
    finally:
        handle.remove()
