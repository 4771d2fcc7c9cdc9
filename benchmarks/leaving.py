"""What it saves that answers leave their batch when they are over: CPU seconds to those with all rows in to the end.

    python benchmarks/leaving.py [--runs 3] [--hidden 512] [--layers 32] [--budget 64] [--methods vanilla,adaptinfer]
    python benchmarks/leaving.py --hidden 64                        # as wide as the shipped model
    python benchmarks/leaving.py --mini [--limit 40]                # the shipped model on its tasks, ends and all

The setting of prefill.py, eight prompts at once, and `generate` with answers of 1, 10, 19 … 64 tokens; the mini tasks
go from documents to answers, in batches of 8. Columns: what share of the rows has to have ended before any leaves
(`SHARE` of pruning/leaving.py). They take turns; printed are medians of the runs' ratios to all rows staying.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from setting import arguments, decoder, prompt
from tabulate import tabulate

import adaptinfer_eval as ae
from adaptinfer_eval.models.decoding import Ended, Only
from adaptinfer_eval.pruning import leaving
from adaptinfer_eval.sweep.config import load_config
from adaptinfer_eval.sweep.tasks import load_tasks

LENGTHS, END = (1, 10, 19, 28, 37, 46, 55, 64), 2
SHARES = {"stay": 2.0, "any": 0.0, "a quarter": 1 / 4, "half": 1 / 2}


def long_answers(hidden: int, layers: int) -> Callable[[ae.Method], object]:
    """`generate` for eight prompts, whose answers are forced, with random weights."""
    model, (embeds, mask) = decoder(hidden, layers), prompt(hidden)
    embeds = embeds.expand(len(LENGTHS), -1, -1)
    inputs = {"inputs_embeds": embeds, "attention_mask": torch.ones(embeds.shape[:2], dtype=torch.long)}
    targets = [[3] * (length - 1) for length in LENGTHS]

    def answer(method: ae.Method) -> object:
        ended = Ended([END])
        forced: dict[str, Any] = {"logits_processor": [Only(targets, 0, END)], "stopping_criteria": [ended]}
        forced |= {"max_new_tokens": max(LENGTHS), "do_sample": False, "eos_token_id": END, "pad_token_id": 0}
        with ae.pruned(model, method, vision_mask=mask, ended=ended.rows):
            return model.generate(**inputs, **forced)

    return answer


def mini_tasks(limit: int) -> Callable[[ae.Method], object]:
    """The wrapper's answers to the first questions of every mini task."""
    from lmms_eval.models import get_model

    config = load_config("mini")
    _, tasks = load_tasks(config)
    model = get_model("vanilla_llava")(pretrained=config.checkpoint, dtype="float32", device="cpu", batch_size=8)
    model.task_dict = {name: task.dataset for name, task in tasks.items()}
    for task in tasks.values():
        task.build_all_requests(limit=limit)

    def answer(method: ae.Method) -> object:
        model.method = method
        return [model.generate_until(task.instances) for task in tasks.values()]

    return answer


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--methods", default="vanilla,adaptinfer")
    parser.add_argument("--mini", action="store_true")
    parser.add_argument("--limit", type=int, default=40)
    asked = parser.parse_args()
    answer = mini_tasks(asked.limit) if asked.mini else long_answers(asked.hidden, asked.layers)

    def seconds(method: ae.Method, share: float) -> float:
        leaving.SHARE = share
        started = time.process_time()
        answer(method)
        return time.process_time() - started

    rows = []
    for name in asked.methods.split(","):
        method = ae.get_method(name)(**({} if name == "vanilla" else {"budget": asked.budget}))
        variants = {way: functools.partial(seconds, method, share) for way, share in SHARES.items()}
        with torch.inference_mode():
            runs = [{way: run() for way, run in variants.items()} for _ in range(asked.runs + 1)][1:]  # one warms up
        to_stay = (statistics.median(run[way] / run["stay"] for run in runs) for way in SHARES if way != "stay")
        rows.append(
            (name, f"{statistics.median(run['stay'] for run in runs):.2f}", *(f"{ratio:.3f}" for ratio in to_stay))
        )
    print(tabulate(rows, ("method", "stay, s", *list(SHARES)[1:]), "github", disable_numparse=True))


if __name__ == "__main__":
    main()
