"""A sweep's folder with records and scores by unit, made of answers that are drawn by chance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptinfer_eval.report.layouts import layout
from adaptinfer_eval.report.render import csv_rows
from adaptinfer_eval.report.table import make_table
from adaptinfer_eval.sweep.units import Units

LLAVA_7B = "llava-hf/llava-1.5-7b-hf"
TASKS = ("adaptinfer_mme", "adaptinfer_textvqa")
Sweep = tuple[list[dict[str, Any]], dict[str, Units]]


def units(task: str, right: float, questions: int = 100) -> Units:
    """A share of `right` answers; questions that are hard for one method are hard for all."""
    luck = np.random.default_rng(len(task)).random((questions, 2))
    if "mme" not in task:
        values = (luck[:, 0] < right).astype(float)
        return Units("mean", 100.0, tuple(map(str, range(questions))), ("",) * questions, values)
    values = (luck < right).sum(axis=1) / 2 + (luck < right).all(axis=1)
    categories = tuple(f"category {number % 4}" for number in range(questions))
    return Units("sum of category means", 100.0, tuple(map(str, range(questions))), categories, values)


def record(method: str, budget: int | None, task: str, score: float | None, **changes: Any) -> dict[str, Any]:
    leaving = 576.0 if method == "vanilla" else float(budget or 64)
    options = "".join(f".{key}={value}" for key, value in changes.get("options", {}).items())
    name = f"llava-{method}{options}-{budget}-s{changes.get('seed', 0)}-r{changes.get('repeat', 0)}-{task}"
    return {
        "schema_version": 3,
        "id": name,
        "method": method,
        "options": {},
        "budget": budget,
        "count": None if budget is None else "leaving",
        "per": None if budget is None else "image",
        "schedule": "none" if method == "vanilla" else "1:290,10:72,20:18",
        "task": task,
        "seed": 0,
        "repeat": 0,
        "status": "done",
        "reason": "",
        "score": score,
        "scores": f"scores/{name}.json",
        "questions": 500,
        "questions_available": 500,
        "data": "x",
        "pretrained": LLAVA_7B,
        "model_args": {},
        "checkpoint": f"{LLAVA_7B}@0123abc",
        "audit": {"entering": leaving + 16, "leaving": leaving, "flops": 2e12},
    } | changes


def measured(method: str, budget: int | None, task: str, right: float, **changes: Any) -> Sweep:
    """One record with its units."""
    scored = units(task, right)
    made = record(method, budget, task, scored.score(), **changes)
    return [made], {made["id"]: scored}


def joined(*sweeps: Sweep) -> Sweep:
    return [one for records, _ in sweeps for one in records], {k: v for _, scores in sweeps for k, v in scores.items()}


def write_sweep(folder: Path, sweep: Sweep) -> Path:
    records, scores = sweep
    for sub in ("cells", "scores"):
        (folder / sub).mkdir(parents=True)
    for made in records:
        (folder / "cells" / f"{made['id']}.json").write_text(json.dumps(made), encoding="utf-8")
        if made["status"] == "done":
            (folder / made["scores"]).write_text(json.dumps(scores[made["id"]].to_json()), encoding="utf-8")
    return folder


def sweep_of(tasks: Sequence[str], budgets: Sequence[int], rights: dict[str, float], **changes: Any) -> Sweep:
    """Vanilla and the methods in `rights` (right answers at 64 tokens) at every budget."""
    cells = [measured("vanilla", None, task, 0.9, **changes) for task in tasks]
    for method, right in rights.items():
        for budget in budgets:
            share = right + 0.05 * np.log2(budget / 64)
            cells += [measured(method, budget, task, share, **changes) for task in tasks]
    return joined(*cells)


def good(**changes: Any) -> Sweep:
    """Both tasks of Table 4 whole, vanilla and two methods."""
    return sweep_of(TASKS, [64], {"fastv": 0.5, "adaptinfer": 0.8}, **changes)


def lines(sweep: Sweep, number: str = "4", lineage: str = "adaptinfer_v1") -> tuple[dict[str, dict[str, str]], str]:
    """Lines of the table by method, as for csv, and the notes."""
    table = make_table(*sweep, layout(number), lineage)
    return {row["Method"]: row for row in csv_rows(table)}, "\n".join(table.notes)
