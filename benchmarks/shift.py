"""How much observing the attention of every layer costs beside the same prefill without it; and change points.

    python benchmarks/shift.py [--pretrained tasks/mini/model] [--task mini_gqa] [--samples 64] [--batch-size 8]

Both prefills take turns, batch by batch in one run, so that a busy machine slows them alike; one thread, float32.
Printed are medians over the runs, and their ratio. "together": questions about one picture share its prefill, as in the
pass; "alone": every prompt is prefilled whole. Change points are those of 1,000 samples of 58 tokens and 32 layers.
"""

from __future__ import annotations

import argparse
import functools

import numpy as np
import torch
from setting import in_turn, seconds
from tabulate import tabulate

import adaptinfer_eval as ae
from adaptinfer_eval.analysis.asked import read_asked, spread
from adaptinfer_eval.analysis.change import change_points
from adaptinfer_eval.analysis.shift import shift_counts
from adaptinfer_eval.models.answering import PREFILL
from adaptinfer_eval.models.batch import Batch
from adaptinfer_eval.models.pictures import stored_pictures
from adaptinfer_eval.models.requests import batches
from adaptinfer_eval.pruning.observer import Received
from adaptinfer_eval.sweep.tasks import load_tasks, questions
from adaptinfer_eval.sweep.worker import load_wrapper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", default="tasks/mini/model")
    parser.add_argument("--task", default="mini_gqa")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    asked = read_asked("shift", given.pretrained, [given.task], given.samples, given.batch_size, "float32")
    _, tasks = load_tasks(asked.config, scored=False)
    model = load_wrapper(asked.config)
    model.task_dict = {name: task.dataset for name, task in tasks.items()}
    chosen = spread(questions(given.task, tasks[given.task], None), given.samples)
    cut = list(batches(chosen.values(), given.batch_size, model.tokenizer, stored_pictures(model.task_dict)))
    vanilla = ae.get_method("vanilla")()

    def plain(batch: Batch) -> None:
        model._generate_under(vanilla, batch, **PREFILL)

    def seen(batch: Batch) -> None:
        layers: list[Received] = []
        model.observe(batch, lambda _, received: layers.append(received))
        shift_counts(layers)

    rows = []
    for name, shares in (("together", True), ("alone", False)):
        model.shares_prefixes = shares
        loaded = [model.load_batch(part) for part in cut]
        works = {"plain": plain, "observed": seen}
        variants = {
            f"{kind} {number}": functools.partial(seconds, functools.partial(work, batch))
            for number, batch in enumerate(loaded)
            for kind, work in works.items()
        }
        median = in_turn(variants, given.runs)
        took = {kind: sum(value for key, value in median.items() if key.startswith(kind)) for kind in works}
        ratio = took["observed"] / took["plain"]
        rows.append((name, *(f"{1e3 * took[kind] / len(chosen):.1f}" for kind in works), f"{ratio:.3f}"))
    print(tabulate(rows, ("prompts", "plain ms", "observed ms", "ratio"), "github", disable_numparse=True))
    curves = np.random.default_rng(0).random((58_000, 32))
    print(f"\nchange points of 58,000 curves of 32 layers: {seconds(lambda: change_points(curves)):.2f} s")


if __name__ == "__main__":
    main()
