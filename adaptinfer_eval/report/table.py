"""The papers' tables from a sweep's records.

The accuracy ratio is the paper's: the mean over tasks of score / vanilla's score, with vanilla from the same
sweep. A cell that is missing or failed is shown as such and leaves its line without a ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from adaptinfer_eval.sweep.config import SweepError

Record = Mapping[str, Any]

COLUMNS = {"mme": "MME", "gqa": "GQA", "mmbench": "MMBench", "scienceqa": "SQA", "textvqa": "TextVQA"}
"""Part of a task's name → its heading in the papers."""
LAYOUTS = {1: ("MME", "GQA", "MMBench", "SQA", "TextVQA"), 4: ("MME", "TextVQA")}
"""Number of the paper's table → its tasks."""
TITLES = {"vanilla": "Vanilla", "tome": "ToMe", "fastv": "FastV", "pdrop": "PDrop", "sparsevlm": "SparseVLM"}
"""The papers' spelling and order of methods; others come next, AdaptInfer last."""
OWN = {"adaptinfer": "AdaptInfer"}
RATIO = "Acc. ratio (%)"


class Row(NamedTuple):
    """What makes a line of the table."""

    method: str
    options: str
    budget: float | None

    @property
    def title(self) -> str:
        name = (TITLES | OWN).get(self.method, self.method)
        return f"{name} ({self.options})" if self.options else name

    def order(self, tokens: float) -> tuple[float, int, str]:
        """Lines with many vision tokens first; among equals, methods as the papers list them."""
        names = [*TITLES, *([self.method] if self.method not in TITLES | OWN else []), *OWN]
        return -tokens, names.index(self.method), self.title


def accuracy_ratio(scores: Sequence[float], vanilla: Sequence[float]) -> float:
    """Percent: mean over tasks of score / vanilla's score."""
    return 100 * sum(s / v for s, v in zip(scores, vanilla, strict=True)) / len(scores)


def layout(number: int) -> tuple[str, ...]:
    """The tasks of the paper's table `number`; SweepError where it has no layout here."""
    if number not in LAYOUTS:
        raise SweepError(f"no layout for table {number}; there are {', '.join(map(str, LAYOUTS))}")
    return LAYOUTS[number]


def heading(task: str) -> str:
    """The papers' heading for a task: `…_textvqa` → TextVQA; an unknown task keeps its name."""
    return next((title for part, title in COLUMNS.items() if part in task), task)


def table(records: Sequence[Record], tasks: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """One line per (method, budget), one column per heading in `tasks`; and notes for below the table.

    SweepError where two tasks of the sweep have the same heading.
    """
    rows: dict[Row, dict[str, Record]] = {}
    for record in records:
        row = rows.setdefault(_row(record), {})
        if heading(record["task"]) in row:
            raise SweepError(f"two tasks stand for {heading(record['task'])}: run them in sweeps of their own")
        row[heading(record["task"])] = record
    vanilla = next((cells for row, cells in rows.items() if row.method == "vanilla"), {})
    order = sorted(rows, key=lambda row: row.order(_tokens(row, rows[row])))
    unit = _flops_unit(records)
    lines = [_line(row, rows[row], vanilla, tasks, unit) for row in order]
    notes = _notes([record for cells in rows.values() for record in cells.values()], tasks)
    if any(line[RATIO] == "–" for line in lines):
        notes.append(f"{RATIO} –: the line or vanilla has no score in one of the columns, or vanilla's is 0.")
    return pd.DataFrame(lines), notes


def render(frame: pd.DataFrame, notes: Sequence[str], form: str) -> str:
    """The table as `md`, `csv` or `tex`, the notes below it (in csv and tex as comments)."""
    columns = len(frame.columns)
    if form == "md":
        align = ("left", *["right"] * (columns - 1))
        body = frame.to_markdown(index=False, colalign=align, disable_numparse=True, tablefmt="github")
        return f"{body}\n\n" + "\n".join(notes)
    if form == "csv":
        return frame.to_csv(index=False) + "\n".join(f"# {note}" for note in notes)
    if form == "tex":
        body = str(frame.to_latex(index=False, escape=True, column_format="l" + "r" * (columns - 1)))
        return body + "\n".join(f"% {note}" for note in notes)
    raise SweepError(f"unknown format {form!r}: md, csv or tex")


def _row(record: Record) -> Row:
    options = ", ".join(f"{key}={value}" for key, value in record["options"].items())
    return Row(record["method"], options, record["budget"])


def _flops_unit(records: Sequence[Record]) -> tuple[str, float]:
    """The papers' TFLOPs; for models a thousand times smaller GFLOPs. Name and size in multiply-adds."""
    most = max((record["audit"]["flops"] for record in records if record["status"] == "done"), default=0.0) / 2
    return ("GFLOPs", 1e9) if 0 < most < 1e11 else ("TFLOPs", 1e12)


def _line(
    row: Row,
    cells: Mapping[str, Record],
    vanilla: Mapping[str, Record],
    tasks: Sequence[str],
    unit: tuple[str, float],
) -> dict[str, str]:
    ratio = "–"
    if all(task in cells and task in vanilla and _comparable(cells[task], vanilla[task]) for task in tasks):
        scores = [[of[task]["score"] for task in tasks] for of in (cells, vanilla)]
        ratio = f"{accuracy_ratio(*scores):.1f}"
    audits = [record["audit"] for record in cells.values() if record["status"] == "done"]
    return {
        "Method": row.title,
        "Avg. tokens": f"{_tokens(row, cells):g}" if audits or row.budget else "–",
        **{task: _score(task, cells.get(task)) for task in tasks},
        RATIO: ratio,
        "Entering": _mean(audits, "entering", "{:.1f}"),
        "Leaving": _mean(audits, "leaving", "{:.1f}"),
        unit[0]: _mean(audits, "flops", "{:.3g}", 0.5 / unit[1]),
    }


def _tokens(row: Row, cells: Mapping[str, Record]) -> float:
    """The budget; without one, the tokens that left each layer, rounded; infinite where nothing was measured."""
    if row.budget is not None:
        return row.budget
    leaving = [record["audit"]["leaving"] for record in cells.values() if record["status"] == "done"]
    return round(sum(leaving) / len(leaving)) if leaving else float("inf")


def _comparable(one: Record, other: Record) -> bool:
    """Both measured, on the same questions, and vanilla's score can be divided by."""
    if not one["status"] == other["status"] == "done":
        return False
    return bool(one["questions"] == other["questions"] and one["data"] == other["data"] and other["score"] > 0)


def _score(task: str, record: Record | None) -> str:
    if record is None:
        return "missing"
    if record["status"] != "done":
        return str(record["status"])
    limited = "*" if record["questions"] < record["questions_available"] else ""
    return f"{record['score']:.0f}{limited}" if task == "MME" else f"{record['score']:.1f}{limited}"


def _mean(audits: Sequence[Mapping[str, float]], key: str, form: str, scale: float = 1.0) -> str:
    """Mean over a line's measured tasks, each counting alike."""
    return form.format(scale * sum(audit[key] for audit in audits) / len(audits)) if audits else "–"


def _notes(records: Sequence[Record], tasks: Sequence[str]) -> list[str]:
    counts = sorted({str(record["count"]) for record in records if record["count"]})
    notes = [
        f"Avg. tokens: the budget, in vision tokens per layer ({', '.join(counts) or 'none'}). Entering, "
        "leaving: vision tokens that a layer computed and passed on, measured. FLOPs: prefill by the paper's "
        "Eq. 5, where a multiply-add is one operation. All are means over the line's tasks.",
    ]
    done = [record for record in records if record["status"] == "done" and heading(record["task"]) in tasks]
    asked = {(heading(r["task"]), r["questions"], r["questions_available"]) for r in done}
    limited = [f"{task} {some} of {all_}" for task, some, all_ in sorted(asked) if some < all_]
    if limited:
        notes.append(f"* not the whole task, only its first questions: {', '.join(limited)}.")
    reasons: dict[str, list[str]] = {}
    for record in records:
        if record["status"] != "done":
            setting = f"{_row(record).title}, {record['budget']:g} tokens" if record["budget"] else record["method"]
            reasons.setdefault(f"{setting}: {record['status']}: {record['reason']}", []).append(record["task"])
    return notes + [f"{reason} ({', '.join(names)})" for reason, names in reasons.items()]
