"""A sweep against the plain command line of lmms-eval, cell by cell: the same answers, in a fraction of the time.

    python benchmarks/sweep.py [--limit 24] [--methods vanilla,fastv] [--budgets 128,64]

Both are timed end to end, from the start of the command to its end, one after the other on the same machine: the sweep
is one command, lmms-eval one command per (method, budget) with all tasks. tests/test_sweep_sharing.py counts the images
that the vision tower encodes: each once for all methods that leave it alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

from adaptinfer_eval.sweep.cells import Setting, settings
from adaptinfer_eval.sweep.config import SweepConfig, load_config

Scores = dict[tuple[str, str], dict[str, float]]
"""Metrics by (method and budget, task)."""


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


def scores_of_sweep(folder: Path) -> Scores:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("cells/*.json")]
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
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overrides = [f"methods={given.methods}", f"budgets={given.budgets}", f"limit={given.limit}", "workers=1"]
        config = load_config("mini", [*overrides, f"output={folder / 'sweep'}"])
        cells = [(setting, folder / setting.label) for setting in settings(config)]
        shared = timed(["adaptinfer_eval.cli", "run", "mini", *overrides, f"output={config.output}"])
        plain = sum(timed(plain_command(config, setting, output)) for setting, output in cells)
        ours = scores_of_sweep(Path(config.output))
        theirs: Scores = {}
        for setting, output in cells:
            theirs |= scores_of_plain(output, f"{config.backbone}-{setting.label}")
        different = [
            key for key, metrics in ours.items() if any(theirs[key][name] != metrics[name] for name in metrics)
        ]
        rows = [("sweep", shared), (f"lmms-eval, {len(cells)} commands", plain), ("ratio", plain / shared)]
        print(tabulate(rows, ("", "seconds"), "github", floatfmt=".1f"))
        print(f"\n{len(ours)} cells of {given.limit} questions; with other metrics: {different or 'none'}")


if __name__ == "__main__":
    main()
