"""Where a sweep's time in the model goes: into the model's own layers, and into all that is around them.

    python benchmarks/model_time.py [--limit 24] [--methods vanilla,fastv] [--budgets 128,64]

One worker in this process answers the mini tasks, on one thread. Timed are the forwards of the decoder's layers, which
are transformers' own, in prefills and in decode steps; the rest of the time in the model is `generate`, the engine and
towers that a method works in. Beside the seconds stands what they are of the limit (see sweep.py), the multiply-adds of
all cells with what they share at the speed of plain prefills: what the layers take nobody gets below who leaves the
model as it is.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from sweep import macs_on_paper, macs_per_second
from tabulate import tabulate

from adaptinfer_eval.sweep.cells import Cell, in_order_of_stages, settings
from adaptinfer_eval.sweep.config import SweepConfig, load_config
from adaptinfer_eval.sweep.identity import Sources
from adaptinfer_eval.sweep.shape import model_shape
from adaptinfer_eval.sweep.shards import in_batches, shards
from adaptinfer_eval.sweep.tasks import load_tasks, questions
from adaptinfer_eval.sweep.worker import Answered, Worker


class Layers:
    """Seconds in the forwards of some decoder layers, by what they are part of."""

    def __init__(self, layers: Any) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        for layer in layers:
            layer.forward = functools.wraps(layer.forward)(functools.partial(self._timed, layer.forward))

    def _timed(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        part = "decoder layers, decode steps" if hidden.shape[1] == 1 else "decoder layers, prefills"
        started = time.perf_counter()
        try:
            return forward(*args, **kwargs)
        finally:
            self.seconds[part] += time.perf_counter() - started


def answered(config: SweepConfig) -> tuple[float, Layers, list[dict[str, Any]]]:
    """Seconds in the model of all cells, those of them in its layers, and the text tokens of each task, as records."""
    _, tasks = load_tasks(config)
    asked = {name: questions(name, task, config.limit) for name, task in tasks.items()}
    worker = Worker(config, Sources.read(config, tasks, asked))
    layers = Layers(worker.model.anatomy.layers)
    found = [Cell(config.backbone, setting, name) for setting in settings(config) for name in tasks]
    cells = in_order_of_stages(found, model_shape(config), 1)
    seconds = 0.0
    text: dict[str, list[int]] = defaultdict(list)
    for shard in shards(in_batches(config, tasks, asked), cells, {cell.id: set() for cell in cells}):
        worker.add(shard)
        for event in worker.events():
            if isinstance(event, Answered):
                seconds += sum(answer["seconds"] for answer in event.answers)
                text[shard.task] += [answer["text_tokens"] for answer in event.answers]
    means = [{"task": name, "audit": {"text_tokens": statistics.fmean(tokens)}} for name, tokens in text.items()]
    return seconds, layers, means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=24, help="questions per task")
    parser.add_argument("--methods", default="vanilla,tome,fastv,pdrop,sparsevlm,adaptinfer,random,downsample")
    parser.add_argument("--budgets", default="128,64")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"{key}={getattr(given, key)}" for key in ("methods", "budgets", "limit")]
        config = load_config("mini", [*overrides, "workers=1", f"output={folder}"])
        speeds = [macs_per_second(config)]
        seconds, layers, records = answered(config)
        speeds.append(macs_per_second(config))
        limit = macs_on_paper(config, records) / statistics.fmean(speeds)
    rows = [*layers.seconds.items(), ("all else", seconds - sum(layers.seconds.values())), ("in the model", seconds)]
    print(
        tabulate(
            [(name, spent, spent / limit) for name, spent in rows], ("", "seconds", "of the limit"), "github", ".2f"
        )
    )
    print("\nA plain prefill, multiply-adds a second before and after: ", end="")
    print(", ".join(f"{speed / 1e9:.1f} G" for speed in speeds))


if __name__ == "__main__":
    main()
