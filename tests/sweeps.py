"""Small real sweeps for tests: a random LLaVA of eight layers on a few questions of the mini tasks."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from adaptinfer_eval.sweep.config import SweepConfig, load_config
from adaptinfer_eval.sweep.records import read_records
from adaptinfer_eval.sweep.run import run_sweep


def small_sweep(checkpoint: Path, output: Path, *overrides: str) -> SweepConfig:
    """Vanilla and AdaptInfer on the first four questions of two tasks, unless `overrides` say otherwise."""
    small = ("budgets=16", "tasks=mini_mme,mini_scienceqa", "limit=4", "batch_size=4", "workers=1")
    where = (f"pretrained={checkpoint}", f"output={output}")
    return load_config("mini", ["methods=vanilla,adaptinfer", *small, *where, *overrides])


def run(sweep: SweepConfig) -> tuple[dict[str, Any], list[str], str]:
    """Records by cell, ids of failed cells, and what the terminal showed."""
    terminal = io.StringIO()
    failed = run_sweep(sweep, Console(file=terminal, width=200))
    records = {record["id"]: record for record in read_records(Path(sweep.output))}
    return records, [failure.cell for failure in failed], terminal.getvalue()


def answers(sweep: SweepConfig, record: dict[str, Any]) -> list[tuple[int, Any]]:
    lines = Path(sweep.output, record["answers"]).read_text(encoding="utf-8").splitlines()
    return [(sample["doc_id"], sample["filtered_resps"]) for sample in map(json.loads, lines)]


def same_results(one: SweepConfig, other: SweepConfig) -> bool:
    """Whether two finished sweeps have the same cells with the same answers, scores and audits (but for time)."""

    def results(sweep: SweepConfig) -> dict[str, Any]:
        return {
            record["id"]: (
                answers(sweep, record),
                record["score"],
                {key: value for key, value in record["audit"].items() if key != "seconds"},
            )
            for record in read_records(Path(sweep.output))
        }

    return results(one) == results(other)
