"""Numbers that papers print, from results/published.yaml, and whether a sweep may be compared with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from adaptinfer_eval.report.layouts import Layout, Record, heading
from adaptinfer_eval.report.rows import Line
from adaptinfer_eval.sweep.config import SweepError, nearest, shipped

RATIO = "ratio"
OWN_TASKS = "adaptinfer_"
"""How tasks begin that ask and score as the papers do; upstream's own and the mini tasks do not."""
INPUT = {"image_aspect_ratio": "pad", "conv": "vicuna_v1"}
"""What the published models were given, of LLaVA's model_args; as by default."""
NOT_INPUT = {"attn_implementation", "revision"}
"""Model_args that do not change what a model is given."""


@dataclass(frozen=True)
class Published:
    """A table of one lineage: rows[name][tokens] has a number, or None where none is printed, for every column."""

    source: str
    model: str
    count: str
    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[float, Sequence[float | None]]]

    def row(self, line: Line) -> dict[str, float]:
        """By heading, and under RATIO the accuracy ratio; empty where nothing is published for the line."""
        by_tokens = self.rows.get(line.place.name, {})
        if line.method == "vanilla" and len(by_tokens) == 1:  # its tokens are the model's: there is no other budget
            (numbers,) = by_tokens.values()
        else:
            numbers = by_tokens.get(line.tokens, [None] * len(self.columns))
        return {title: n for title, n in zip(self.columns, numbers, strict=True) if n is not None}

    def mismatch(self, records: Sequence[Record]) -> str:
        """Why the sweep is not a measurement of what is published; empty where it is."""
        if harness := next((r["harness"] for r in records if r.get("harness", "lmms-eval") != "lmms-eval"), None):
            return f"they are scores of lmms-eval, and the sweep's harness is {harness}"
        models = {record["checkpoint"].split("@")[0] for record in records}
        if models != {self.model}:
            return f"they are of {self.model}, and the sweep's checkpoint is {records[0]['pretrained']}"
        counts = {record["count"] for record in records} - {None}
        if counts - {self.count}:
            return f"their budgets count tokens {self.count}, and the sweep's tokens {', '.join(sorted(counts))}"
        given = {(key, value) for record in records for key, value in record["model_args"].items()}
        changed = sorted(f"{key}={value}" for key, value in given - INPUT.items() if key not in NOT_INPUT)
        if changed:
            return f"the sweep's model_args ({', '.join(changed)}) change what the model is given"
        tasks = {record["task"] for record in records if heading(record["task"]) in self.columns}
        other = sorted(task for task in tasks if not task.startswith(OWN_TASKS))
        if other:
            return f"they are of the tasks {OWN_TASKS}…, and the sweep's tasks are others: {', '.join(other)}"
        return ""


def published(layout: Layout, lineage: str) -> Published | None:
    """What `lineage` prints for the table; None where it prints nothing. SweepError where there is no such lineage."""
    found = read_published()
    if lineage not in found:
        raise SweepError(f"no lineage {lineage!r} in published.yaml{nearest(lineage, found)}")
    tables = found[lineage]["tables"]
    block = tables.get(layout.config)
    if block is None:
        return None
    return Published(found[lineage]["source"], block["model"], block["count"], tuple(block["columns"]), block["rows"])


def read_published() -> dict[str, Any]:
    """All lineages: what results/published.yaml says."""
    path = shipped("results/published.yaml")
    if path is None:
        raise SweepError("results/published.yaml is not installed: reinstall adaptinfer-eval")
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found
