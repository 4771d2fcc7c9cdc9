"""What was measured on real weights: a file for each sweep in results/evidence, and a page made of all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report.bootstrap import interval, resampled_scores
from adaptinfer_eval.report.headings import Record, digits, heading
from adaptinfer_eval.report.layouts import TITLES, layout, options_of, table_names
from adaptinfer_eval.report.published import published
from adaptinfer_eval.report.units import read_units
from adaptinfer_eval.report.verdicts import verdict_rows, verdicts_of
from adaptinfer_eval.sweep.config import SweepError, load_config
from adaptinfer_eval.sweep.files import file_name, write_text
from adaptinfer_eval.sweep.records import read_records, write_json
from adaptinfer_eval.sweep.task_files import description, task_files
from adaptinfer_eval.sweep.units import Units

FOLDER, PAGE = Path("results/evidence"), Path("docs/verified.md")
EVIDENCE_VERSION = 1
COMMON = ("backbone", "checkpoint", "dtype", "model_args", "engine", "versions")
"""The same in a whole sweep."""
ASKED = ("method", "options", "budget", "count", "per", "schedule", "seed", "repeat", "task", "data", "questions")
AUDITED = ("entering", "leaving", "entering_share", "leaving_share", "flops", "seconds")
HEAD = """# What was measured on real weights

Made by `adaptinfer-eval evidence` from the files in `results/evidence`; not edited by hand. A file is of one sweep of
whole tasks on a checkpoint of the hub: scores with 95 % intervals over questions, what they cost, and what they were
made with.
"""
NOTHING = """
**Nothing is filed yet**: no number of this project comes from real weights so far. A sweep is filed with
`adaptinfer-eval evidence results/runs/table1`.
"""


def file_evidence(folder: Path) -> Path:
    """Write down what the sweep in `folder` measured; the file's path.

    SweepError where it is not of a checkpoint of the hub, not of whole tasks, or not finished.
    """
    records = read_records(folder)
    name = load_config(str(folder / "config.yaml")).name
    _check(folder, records)
    done = [record for record in records if record["status"] == "done"]
    units = read_units(folder, records)
    commit = done[0]["checkpoint"].split("@")[1]
    made = {
        "evidence": EVIDENCE_VERSION,
        "name": name,
        **{key: done[0][key] for key in COMMON},
        "hardware": _each(done, "device"),
        "dates": [min(record["date"] for record in done), max(record["date"] for record in done)],
        "tasks": {task: _version(task) for task in dict.fromkeys(record["task"] for record in done)},
        "results": [_result(record, units[record["id"]]) for record in done],
        "cannot run": {record["id"]: record["reason"] for record in records if record["status"] == "cannot run"},
        "verdicts": _verdicts(records, units, name),
    }
    path = FOLDER / file_name(f"{name}-{commit[:12]}.json")
    write_json(path, made)
    return path


def write_page() -> Path:
    write_text(PAGE, page([json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]))
    return PAGE


def page(filed: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a section for each file."""
    return "\n".join([HEAD.rstrip(), *([_section(one) for one in filed] or [NOTHING.rstrip()])]) + "\n"


def _check(folder: Path, records: Sequence[Record]) -> None:
    failed = [record["id"] for record in records if record["status"] == "failed"]
    done = [record for record in records if record["status"] == "done"]
    if failed or not done:
        raise SweepError(f"{folder} has cells without a result ({', '.join(failed) or 'all'}): finish the sweep first")
    for record in done:
        origin, _, commit = record["checkpoint"].partition("@")
        if not commit or "/" not in origin:
            raise SweepError(
                f"{folder} is of {record['pretrained']}, whose weights nobody else can find: evidence is of a "
                "checkpoint of the hub at a commit"
            )
        if record["questions"] < record["questions_available"]:
            raise SweepError(
                f"{folder} asked {record['questions']} of {record['questions_available']} questions of "
                f"{record['task']}: evidence is of whole tasks (limit=null)"
            )


def _each(records: Sequence[Record], key: str) -> list[str]:
    """All values of a key, which may be lists, once."""
    found = [record[key] if isinstance(record[key], list) else [record[key]] for record in records]
    return list(dict.fromkeys(str(one) for several in found for one in several))


def _version(task: str) -> str:
    """What the task's file calls its version; empty where it does not, or is not here any more."""
    files = task_files([task])
    told = description(files[task]).get("metadata") if task in files else None
    found = told if isinstance(told, list) else [told]
    return next((str(one["version"]) for one in found if isinstance(one, dict) and "version" in one), "")


def _result(record: Record, units: Units) -> dict[str, Any]:
    between = None if units.combine == "whole" else interval(resampled_scores([units], heading(record["task"]))[:, 0])
    audit = {key: record["audit"][key] for key in AUDITED if key in record["audit"]}
    return {**{key: record[key] for key in (*ASKED, "score")}, "interval": between, "audit": audit}


def _verdicts(records: Sequence[Record], units: Mapping[str, Units], config: str) -> dict[str, list[dict[str, str]]]:
    """By table and lineage, of the tables that this configuration measures: every published number with its word."""
    found = {}
    for name in table_names():
        columns = layout(name)
        for lineage in columns.published or [columns.lineage] if columns.config == config else ():
            if published(columns, lineage):
                found[f"table {name}, {lineage}"] = verdict_rows(verdicts_of(records, units, columns, lineage)[0])
    return found


def _section(filed: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in filed["versions"].items())
    tasks = ", ".join(f"{task} (version {number or 'not said'})" for task, number in filed["tasks"].items())
    rows = [
        {
            "Method": TITLES.get(one["method"], one["method"]) + (f" ({options_of(one)})" if one["options"] else ""),
            "Budget": "–" if one["budget"] is None else budget_text(one["budget"]),
            "Task": heading(one["task"]),
            "Score": f"{one['score']:.{digits(heading(one['task']))}f}",
            "95 % interval": "–" if one["interval"] is None else "{:.1f}–{:.1f}".format(*one["interval"]),
            "Entering": f"{one['audit']['entering']:.1f}",
            "Questions": str(one["questions"]),
        }
        for one in filed["results"]
    ]
    sides = ("left", "right", "left", *["right"] * 4)
    parts = [
        f"\n## {filed['name']}: {filed['checkpoint']}\n",
        f"{', '.join(filed['hardware'])}; {filed['dtype']}; {versions}; {filed['dates'][0]} to {filed['dates'][1]}.",
        f"Tasks: {tasks}.\n",
        tabulate(rows, "keys", "github", colalign=sides, disable_numparse=True),
    ]
    for title, verdicts in filed["verdicts"].items():
        parts += [f"\n### {title}\n", tabulate(verdicts, "keys", "github", disable_numparse=True)]
    return "\n".join(parts)
