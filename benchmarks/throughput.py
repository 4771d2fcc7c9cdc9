"""How many questions a second are answered in batches of 8, beside one at a time, on the mini tasks.

    python benchmarks/throughput.py [--runs 3] [--limit 40] [--threads 1]

The shipped model through its lmms-eval wrapper, from documents to answers: images are decoded and prompts tokenised in
a thread of their own while the model answers. Batch sizes take turns; printed are medians over the runs.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import torch
from setting import in_turn, seconds
from tabulate import tabulate

import adaptinfer_eval as ae
from adaptinfer_eval.sweep.config import load_config
from adaptinfer_eval.sweep.tasks import load_tasks

METHODS: dict[str, dict[str, Any]] = {"vanilla": {}, "adaptinfer": {"budget": 64}, "sparsevlm": {"budget": 64}}
BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    from lmms_eval.models import get_model

    config = load_config("mini")
    _, tasks = load_tasks(config)
    model = get_model("vanilla_llava")(pretrained=config.checkpoint, dtype="float32", device="cpu")
    model.task_dict = {name: task.dataset for name, task in tasks.items()}
    instances = []
    for task in tasks.values():
        task.build_all_requests(limit=asked.limit)
        instances.append(task.instances)

    def answer(method: ae.Method, batch_size: int) -> float:
        model.method, model.batch_size = method, batch_size
        return seconds(lambda: [model.generate_until(of_task) for of_task in instances])

    variants = {
        (name, size): functools.partial(answer, ae.get_method(name)(**options), size)
        for name, options in METHODS.items()
        for size in (1, BATCH)
    }
    median = in_turn({f"{name} {size}": variant for (name, size), variant in variants.items()}, asked.runs)
    questions = sum(map(len, instances))
    rows = []
    for name in METHODS:
        alone, batched = questions / median[f"{name} 1"], questions / median[f"{name} {BATCH}"]
        rows.append((name, f"{alone:.2f}", f"{batched:.2f}", f"{batched / alone:.2f}"))
    print(tabulate(rows, ("method", "one at a time, 1/s", f"batches of {BATCH}, 1/s", "ratio"), "github"))


if __name__ == "__main__":
    main()
