"""A sweep against the plain command line of lmms-eval, cell by cell: the same answers, in a fraction of the time.

    python benchmarks/sweep.py [--limit 24] [--methods vanilla,fastv] [--budgets 128,64] [--workers 2] [--sweep-only]

Both are timed end to end, from the start of the command to its end, one after the other on the same machine: the sweep
is one command with a worker per core, lmms-eval one command per (method, budget) with all tasks, on as many threads as
torch takes by itself: all cores. tests/test_sweep_sharing.py counts the images that the vision tower encodes: each once
for all methods that leave it alone.

Then how near the time in the model is to what its arithmetic takes: the records' seconds (prefill with all that methods
do, and decode steps; not the vision tower where it is shared) over a limit, the multiply-adds of all cells with what
they share, at the speed of plain prefills of vanilla's before and after the sweep, with nothing shared, on as many
threads. Of both, attention is counted as causal kernels compute it. Several workers also wait for each other in that
time: read this with `--workers 1 --sweep-only`, which leaves lmms-eval out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from adaptinfer_eval.bench.measure import Subject, sample
from adaptinfer_eval.bench.shapes import load, prompts, ready
from adaptinfer_eval.methods.method import get_method
from adaptinfer_eval.sweep.cells import Setting, plan, settings
from adaptinfer_eval.sweep.config import SweepConfig, load_config
from adaptinfer_eval.sweep.memory import keep_memory
from adaptinfer_eval.sweep.records import Record, read_records
from adaptinfer_eval.sweep.shape import model_shape
from adaptinfer_eval.sweep.task_size import task_sizes
from adaptinfer_eval.sweep.threads import cores, use_threads
from adaptinfer_eval.sweep.whole_cost import Asked, work_of_question, work_of_sweep

Scores = dict[tuple[str, str], dict[str, float]]
"""Metrics by (method and budget, task)."""
PROMPTS = 8
"""Of a plain prefill; with more, what layers hand on fits no core's cache, and it is slower."""


def timed(command: list[str]) -> float:
    """Wall seconds of a command; CalledProcessError with its output where it fails."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    return time.perf_counter() - started


def plain_command(config: SweepConfig, setting: Setting, output: Path) -> list[str]:
    arguments = {"pretrained": config.checkpoint, "dtype": config.dtype, **setting.arguments()}
    return [
        "lmms_eval",
        f"--model={setting.entry.name}_{config.backbone}",
        f"--model_args={','.join(f'{key}={value}' for key, value in arguments.items())}",
        f"--tasks={','.join(config.tasks)}",
        f"--batch_size={config.batch_size}",
        f"--limit={config.limit}",
        f"--output_path={output}",
    ]


def macs_per_second(config: SweepConfig, prefills: int = 5) -> float:
    """Multiply-adds a second of plain prefills of the unpruned model, nothing shared; the median."""
    use_threads(config.workers or 1)
    keep_memory()
    model = ready(load(config.checkpoint, torch.float32, torch.device("cpu")))
    inputs, shape = prompts(model, PROMPTS, config.text_tokens), model_shape(config)
    asked = Asked(0, shape.vision_tokens, config.text_tokens, causal=True)
    macs = PROMPTS * work_of_question([get_method("vanilla")()], shape, asked, 1).alone
    with torch.inference_mode():
        taken = [sample(Subject(model, None, inputs, new_tokens=2))["prefill"] for _ in range(prefills + 1)]
    return macs / statistics.median(taken[1:])  # the first warms up


def macs_on_paper(config: SweepConfig, records: list[Record]) -> float:
    """Of all questions under all cells, with what is shared once; prompts have the records' text tokens, mean."""
    planned, sizes, macs = plan(config), task_sizes(config.tasks), 0.0
    for name, size in sizes.items():
        asked = size.limited(config.limit)
        text = statistics.fmean(record["audit"]["text_tokens"] for record in records if record["task"] == name)
        macs += asked.questions * work_of_sweep(config, planned, asked, text, causal=True).shared
    return macs


def scores_of_sweep(records: list[Record]) -> Scores:
    return {(record["id"].removesuffix(f"-{record['task']}"), record["task"]): record["metrics"] for record in records}


def scores_of_plain(folder: Path, label: str) -> Scores:
    (results,) = folder.glob("*/*_results.json")  # lmms-eval's command exits with 0 on errors, too
    found: dict[str, dict[str, Any]] = json.loads(results.read_text(encoding="utf-8"))["results"]
    return {
        (label, task): {name.removesuffix(",none"): value for name, value in metrics.items()}
        for task, metrics in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=24, help="questions per task")
    parser.add_argument("--methods", default="vanilla,tome,fastv,pdrop,sparsevlm,adaptinfer,random,downsample")
    parser.add_argument("--budgets", default="128,64")
    parser.add_argument("--workers", type=int, default=cores(), help="of the sweep; by default one per core")
    parser.add_argument("--sweep-only", action="store_true", help="only the sweep, against the limit")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = ("methods", "budgets", "limit", "workers")
        overrides = [f"{key}={getattr(given, key)}" for key in asked]
        config = load_config("mini", [*overrides, f"output={folder / 'sweep'}"])
        speeds = [macs_per_second(config)]
        shared = timed(["adaptinfer_eval.cli", "run", "mini", *overrides, f"output={config.output}"])
        speeds.append(macs_per_second(config))
        records = [record for record in read_records(Path(config.output)) if record["status"] == "done"]
        rows = [("sweep", shared)] if given.sweep_only else against_plain(config, folder, shared, records)
        in_model = sum(record["audit"]["seconds"] * record["audit"]["requests"] for record in records)
        limit = macs_on_paper(config, records) / statistics.fmean(speeds)
        rows += [("in the model", in_model), ("limit", limit), ("in the model / limit", in_model / limit)]
        print(tabulate(rows, ("", "seconds"), "github", floatfmt=".2f"))
        print("\nA plain prefill, multiply-adds a second before and after: ", end="")
        print(", ".join(f"{speed / 1e9:.1f} G" for speed in speeds))


def against_plain(config: SweepConfig, folder: Path, shared: float, records: list[Record]) -> list[tuple[str, float]]:
    """Lines of the table; says which cells have other metrics under the plain command line."""
    theirs: Scores = {}
    plain = 0.0
    for setting in settings(config):
        output = folder / setting.label
        plain += timed(plain_command(config, setting, output))
        theirs |= scores_of_plain(output, f"{config.backbone}-{setting.label}")
    ours = scores_of_sweep(records)
    different = [key for key, metrics in ours.items() if any(theirs[key][name] != metrics[name] for name in metrics)]
    print(f"{len(ours)} cells of {config.limit} questions; with other metrics: {different or 'none'}\n")
    return [("sweep", shared), (f"lmms-eval, {len(settings(config))} commands", plain), ("ratio", plain / shared)]


if __name__ == "__main__":
    main()
