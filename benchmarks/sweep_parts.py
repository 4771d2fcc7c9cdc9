"""Where a sweep's time went: seconds per request from its records, and its other parts timed again on this machine.

adaptinfer-eval run mini limit=40 workers=1 output=results/runs/parts
python benchmarks/sweep_parts.py results/runs/parts
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from tabulate import tabulate

from adaptinfer_eval.sweep.cells import Cell, settings
from adaptinfer_eval.sweep.config import SweepConfig, load_config
from adaptinfer_eval.sweep.identity import Sources, checkpoint_digest, data_digest
from adaptinfer_eval.sweep.journal import Journal
from adaptinfer_eval.sweep.logs import logged_to
from adaptinfer_eval.sweep.records import Record, read_records
from adaptinfer_eval.sweep.score import measure
from adaptinfer_eval.sweep.shards import in_batches
from adaptinfer_eval.sweep.tasks import load_tasks, questions
from adaptinfer_eval.sweep.worker import Worker

Result = TypeVar("Result")
IMPORTS = "import lmms_eval.evaluator, adaptinfer_eval.sweep.worker"


def timed(action: Callable[..., Result], *given: Any) -> tuple[float, Result]:
    started = time.perf_counter()
    result = action(*given)
    return time.perf_counter() - started, result


def answering(records: list[Record]) -> str:
    """A table by method and budget: the vision tower is not in it where the sweep shared it."""
    rows = []
    for label in dict.fromkeys((record["method"], record["budget"] or 0) for record in records):
        audits = [r["audit"] for r in records if (r["method"], r["budget"] or 0) == label]
        spent = sum(audit["seconds"] * audit["requests"] for audit in audits)
        requests = sum(audit["requests"] for audit in audits)
        flops, tokens = (statistics.fmean(audit[key] for audit in audits) for key in ("flops", "generated_tokens"))
        numbers = (1e3 * spent / requests, spent / len(audits), flops / 1e9, tokens)
        rows.append((label[0], f"{label[1]:g}" if label[1] else "–", *numbers))
    rows.sort(key=lambda row: -row[2])
    headers = ("method", "budget", "ms per request", "s per cell", "GFLOP per prefill", "tokens per answer")
    return tabulate(rows, headers, "github", floatfmt=("", "", ".1f", ".2f", ".2f", ".1f"))


def parts(folder: Path, config: SweepConfig, records: list[Record]) -> str:
    """A table of all but answering. Scores are written to a copy."""
    rows = [("imports of a process", timed(subprocess.check_call, [sys.executable, "-c", IMPORTS])[0])]
    rows.append(("fingerprint of the checkpoint", timed(checkpoint_digest, config.checkpoint)[0]))
    took, (manager, tasks) = timed(load_tasks, config)
    rows.append(("data sets", took))
    took, asked = timed(lambda: {name: questions(name, task, config.limit) for name, task in tasks.items()})
    count = sum(map(len, asked.values()))
    rows.append(("prompts, per question", took / count))
    took, _ = timed(lambda: [data_digest(task, asked[name]) for name, task in tasks.items()])
    rows.append(("fingerprint of the data, per question", took / count))
    took, worker = timed(Worker, config, Sources.read(config, tasks, asked))
    rows.append(("a worker's model and data sets", took))

    took, found = timed(in_batches, config, tasks, asked)
    rows.append(("cutting into batches, per question", took / count))
    of_all = [[asked[name][doc] for doc in docs] for name, of_task in found.items() for docs in of_task]
    loaded = [timed(worker.model.load, part) for part in of_all]
    encoded = [timed(worker.model.encode_images, batch)[0] for _, (_, batch) in loaded]
    rows.append(("images and tokens, per question", sum(took for took, _ in loaded) / count))
    rows.append(("vision tower, per question", sum(encoded) / count))

    cells = {c.id: c for s in settings(config) for c in (Cell(config.backbone, s, name) for name in config.tasks)}
    config = config.model_copy(update={"output": str(folder)})
    scored = []
    for record in records:
        first = (folder / "journal" / f"{record['id']}.jsonl").read_text(encoding="utf-8").splitlines()[0]
        journal = Journal(folder, record["id"], json.loads(first)["identity"])
        cell = cells[record["id"]]
        scored.append(timed(measure, config, cell, journal, manager, tasks[cell.task])[0])
    rows.append((f"scoring a cell of {records[0]['questions']} questions", statistics.median(scored)))
    answers = list(journal.read()[0].values())[: config.batch_size]
    kept = [timed(journal.write, {}, answers)[0] for _ in range(200)]
    rows.append((f"journal, a batch of {len(answers)} answers", statistics.median(kept)))
    return tabulate([(name, f"{1e3 * took:.3g}") for name, took in rows], ("part", "ms"), "github")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    config = load_config(str(folder / "config.yaml"))
    records = [record for record in read_records(folder) if record["status"] == "done"]
    print(answering(records) + "\n")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:  # the journal's speed is that of the sweep's disk
        copy = Path(temporary)
        shutil.copytree(folder / "journal", copy / "journal")
        with logged_to(copy / "log.txt"):
            table = parts(copy, config, records)
    print(table)


if __name__ == "__main__":
    main()
