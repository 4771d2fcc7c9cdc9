"""How long a question takes in batches of 8, beside one at a time, on the mini tasks.

    python benchmarks/throughput.py [--runs 3] [--limit 24] [--threads 1]

The shipped model through its lmms-eval wrapper, from documents to answers: images are decoded and prompts tokenised in
a thread of their own while the model answers. "nothing shared" is the same batches when what questions about one
picture begin with is computed for each of them. The three take turns; printed are medians over the runs.
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
WAYS = {"one at a time": (1, True), "batches of 8, nothing shared": (8, False), "batches of 8": (8, True)}
"""Batch size, and whether prompts about one picture share what they begin with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    from lmms_eval.models import get_model

    config = load_config("mini")
    _, tasks = load_tasks(config)
    model = get_model("vanilla_llava")(pretrained=config.checkpoint, dtype="float32", device="cpu")
    model.task_dict = {name: task.dataset for name, task in tasks.items()}
    for task in tasks.values():
        task.build_all_requests(limit=asked.limit)
    instances = {name: task.instances for name, task in tasks.items()}

    def answer(method: ae.Method, way: str, task: str) -> float:
        model.method, (model.batch_size, model.shares_prefixes) = method, WAYS[way]
        return seconds(lambda: model.generate_until(instances[task]))

    methods = {name: ae.get_method(name)(**options) for name, options in METHODS.items()}
    median = in_turn(
        {
            f"{name} {task} {way}": functools.partial(answer, method, way, task)
            for name, method in methods.items()
            for task in tasks
            for way in WAYS
        },
        asked.runs,
    )
    rows = []
    for name in methods:
        for of in (*([task] for task in tasks), list(tasks)):
            questions = sum(len(instances[task]) for task in of)
            took = [1000 * sum(median[f"{name} {task} {way}"] for task in of) / questions for way in WAYS]
            milliseconds = (f"{each:.1f}" for each in took)
            rows.append((name, of[0] if len(of) == 1 else "all", *milliseconds, f"{took[0] / took[-1]:.2f}"))
    headers = ("method", "task", *(f"{way}, ms" for way in WAYS), "ratio")
    print(tabulate(rows, headers, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
