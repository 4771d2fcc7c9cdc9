"""What was run, whether all of it is there, and with what it was made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptinfer_eval.methods.schedule import budgets_text
from adaptinfer_eval.report.headings import heading
from adaptinfer_eval.report.page.view import Notice
from adaptinfer_eval.sweep.cells import Cell, settings
from adaptinfer_eval.sweep.config import SweepConfig, shipped

Record = Mapping[str, Any]


def wanted_cells(config: SweepConfig) -> list[str]:
    """Ids of all cells of the sweep."""
    return [Cell(config.backbone, setting, task).id for task in config.tasks for setting in settings(config)]


def lead(config: SweepConfig) -> str:
    """One sentence on what was run."""
    asked = f"the first {config.limit} questions" if config.limit else "all questions"
    others = {entry.title for entry in config.methods} - {"vanilla"}
    return (
        f"{len(others)} methods on {config.pretrained} ({config.backbone}) at {budgets_text(config.budgets)} per layer "
        f"(counted {config.count}, per {config.per}), asked {asked} of {', '.join(map(heading, config.tasks))}."
    )


def notices(config: SweepConfig, records: Sequence[Record]) -> list[Notice]:
    """What a reader must know before the first number."""
    return [notice for notice in (_completeness(config, records), _limits(records), toy(config)) if notice]


def _completeness(config: SweepConfig, records: Sequence[Record]) -> Notice:
    wanted = set(wanted_cells(config))
    states = Counter(record["status"] for record in records if record["id"] in wanted)
    missing = sorted(wanted - {record["id"] for record in records})
    others = len(records) - sum(states.values())
    items = [f"{r['id']}: failed: {r['reason']}" for r in records if r["status"] == "failed"]
    items += [f"{name}: missing" for name in missing]
    text = f"{states['done']} of {len(wanted)} cells are measured."
    if states["cannot run"]:
        text += f" {states['cannot run']} cannot run, for the reasons below the results."
    if others:
        text += f" {others} more are here from an earlier configuration of this folder."
    if not items:
        return Notice("good", "Complete.", text)
    return Notice("warning", "Not complete.", f"{text} {states['failed']} failed, {len(missing)} are missing.", items)


def _limits(records: Sequence[Record]) -> Notice | None:
    asked = {r["task"]: (r["questions"], r["questions_available"]) for r in records if r["status"] == "done"}
    limited = [f"{heading(task)} {some} of {all_}" for task, (some, all_) in asked.items() if some < all_]
    if not limited:
        return None
    return Notice("warning", "Not the whole tasks.", f"Only their first questions were asked: {', '.join(limited)}.")


def toy(config: SweepConfig) -> Notice | None:
    """The models that are shipped here say nothing about methods on real checkpoints."""
    toys = [shipped(f"tasks/mini/{name}") for name in ("model", "model_seed1")]
    if Path(config.checkpoint).resolve() not in [toy.resolve() for toy in toys if toy]:
        return None
    return Notice(
        "warning",
        "Not real weights.",
        f"{config.pretrained} is a toy model about a toy world: it shows that the code works and that budgets bite. "
        "It cannot rank published methods.",
    )


def provenance(config: SweepConfig, records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Terms and their values, from the records of measured cells."""
    done = [record for record in records if record["status"] == "done"]

    def each(key: str) -> list[str]:
        return list(dict.fromkeys(str(record[key]) for record in done))

    dates = sorted(each("date"))
    versions = dict.fromkeys(f"{name} {number}" for record in done for name, number in record["versions"].items())
    return [
        ("Checkpoint", [config.pretrained, *each("checkpoint")]),
        ("Precision asked for", each("dtype")),
        ("Device", each("device")),
        ("Batch size", each("batch_size")),
        ("Versions", list(versions)),
        ("Data (SHA-256)", list(dict.fromkeys(f"{record['task']}: {record['data']}" for record in done))),
        ("Code (SHA-256)", list(dict.fromkeys(f"{record['method']}: {record['code']}" for record in done))),
        ("Measured", dates[:1] if len(dates) < 2 else [f"{dates[0]} to {dates[-1]}"]),
    ]
