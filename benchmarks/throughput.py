"""How long a question takes in batches of 8, beside one at a time, on the mini tasks.

    python benchmarks/throughput.py [--runs 3] [--limit 40] [--threads 1]

The shipped model through its lmms-eval wrapper, from documents to answers: images are decoded and prompts tokenised in
a thread of their own while the model answers. Batch sizes take turns; printed are medians over the runs.

"products" is what matrix products and attention take of a question (the first of each task) in an unpadded batch, by
torch's profiler. A batch has to do them for every question, so "at most" is about the ratio if it cost nothing else.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import torch
from setting import in_turn, seconds
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile

import adaptinfer_eval as ae
from adaptinfer_eval.sweep.config import load_config
from adaptinfer_eval.sweep.tasks import load_tasks

METHODS: dict[str, dict[str, Any]] = {"vanilla": {}, "adaptinfer": {"budget": 64}, "sparsevlm": {"budget": 64}}
BATCH = 8
PRODUCTS = {
    *("aten::mm", "aten::addmm", "aten::bmm", "aten::mkldnn_convolution"),
    "aten::_scaled_dot_product_flash_attention_for_cpu",
}


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

    methods = {name: ae.get_method(name)(**options) for name, options in METHODS.items()}

    def answer(method: ae.Method, batch_size: int) -> float:
        model.method, model.batch_size = method, batch_size
        return seconds(lambda: [model.generate_until(of_task) for of_task in instances])

    def products(method: ae.Method) -> float:
        """Seconds for a question. Every batch is one question, 8 times: nothing is padded."""
        model.method, model.batch_size = method, BATCH
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for of_task in instances:
                model.generate_until(of_task[:1] * BATCH)
        taken: float = sum(event.self_cpu_time_total for event in profiled.key_averages() if event.key in PRODUCTS)
        return taken / 1e6 / BATCH / len(instances)

    variants = {
        f"{name} {size}": functools.partial(answer, method, size)
        for name, method in methods.items()
        for size in (1, BATCH)
    }
    median = in_turn(variants, asked.runs)
    questions = sum(map(len, instances))
    rows = []
    for name, method in methods.items():
        alone, batched, least = median[f"{name} 1"] / questions, median[f"{name} {BATCH}"] / questions, products(method)
        milliseconds = (f"{1000 * taken:.1f}" for taken in (alone, batched, least))
        rows.append((name, *milliseconds, f"{alone / batched:.2f}", f"{alone / least:.2f}"))
    headers = ("method", "one at a time, ms", f"in batches of {BATCH}, ms", "products, ms", "ratio", "at most")
    print(tabulate(rows, headers, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
