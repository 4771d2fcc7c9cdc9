"""The same cells under lmms-eval and VLMEvalKit, side by side: scores, and the questions on which they disagree."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report.headings import Record, digits, heading
from adaptinfer_eval.report.layouts import TITLES, options_of
from adaptinfer_eval.report.notes import harness_of
from adaptinfer_eval.report.page.samples import read_rights, read_samples
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.records import read_records
from adaptinfer_eval.sweep.samples import MMBENCH, MMBENCH_COPY
from adaptinfer_eval.sweep.scores import MME

HARNESSES = ("lmms-eval", "vlmevalkit")
CAUSES = ("prompt", "picture", "extraction", "metric")
NOTES = (
    "Disagree: questions of both that one harness counts as right, or as more right, and the other not (MMBench's with "
    "all circular copies). Why, for each the first thing that differs: prompt, the text that was asked; picture, its "
    "pixels (in half precision also the batch); extraction, of the same answer another option, or yes or no, was read; "
    "metric, the same answer to an open question was scored otherwise. A question is the same where the papers ask it "
    "in the same words (MMBench's by its index, MME's by its picture, too); those that one harness alone has are not "
    "counted."
)
Sample = Mapping[str, Any]


@dataclass
class Compared:
    """One cell under both: its records, how many questions both have, and why they disagree on how many of those."""

    records: tuple[Record, Record]
    questions: int
    causes: Counter[str] = field(default_factory=Counter)


def compare_harnesses(one: Path, other: Path) -> list[Compared]:
    """The cells that are measured in both folders, of lmms-eval's sweep and VLMEvalKit's, in whatever order.

    SweepError where the folders are not of one sweep each, of the same model, and where they share no cell.
    """
    found = {}
    for folder in (one, other):
        records = read_records(folder)
        found[str(records[0].get("harness", HARNESSES[0]))] = (folder, records)
    if set(found) != set(HARNESSES):
        raise SweepError(f"{one} and {other} are both of {', '.join(found)}: run one of them with harness=vlmevalkit")
    (first, ours), (second, theirs) = (found[harness] for harness in HARNESSES)
    for key in ("checkpoint", "dtype", "model_args"):
        if (mine := ours[0].get(key)) != (yours := theirs[0].get(key)):
            raise SweepError(f"{first} and {second} are of different models ({key}: {mine!r:.60}, {yours!r:.60})")
    by_id = {record["id"]: record for record in theirs if record["status"] == "done"}
    both = [(record, by_id[record["id"]]) for record in ours if record["status"] == "done" and record["id"] in by_id]
    if not both:
        raise SweepError(
            f"{first} and {second} have no measured cell in common: run the same methods, budgets and tasks"
        )
    return [_compare(first, second, pair) for pair in both]


def harness_table(compared: Sequence[Compared], form: str) -> str:
    """One line per task, method and budget; `form`: md, csv or tex."""
    headers = ("Task", "Method", "Budget", "lmms-eval", "VLMEvalKit", "Difference", "Questions", "Disagree", *CAUSES)
    order = list(TITLES)
    lines = sorted(compared, key=lambda line: _rank(line.records[0], order))
    rows = [_row(line) for line in lines]
    if form == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([headers, *rows])
        return text.getvalue().rstrip()
    if form not in ("md", "tex"):
        raise SweepError(f"no format {form!r}: there are md, csv and tex")
    align = ("left", "left", *["right"] * (len(headers) - 2))
    table = tabulate(
        rows, headers, "github" if form == "md" else "latex_booktabs", colalign=align, disable_numparse=True
    )
    if form == "tex":
        return table
    ours, theirs = lines[0].records
    return f"{table}\n\n{NOTES}\nlmms-eval {ours['versions']['lmms-eval']}. {harness_of(theirs)}"


def _rank(record: Record, order: Sequence[str]) -> tuple[Any, ...]:
    method = record["method"]
    place = order.index(method) if method in order else len(order)
    return heading(record["task"]), -(record["budget"] or float("inf")), place, record["id"]


def _row(line: Compared) -> list[str]:
    one = line.records[0]
    title = TITLES.get(one["method"]) or str(one["method"])
    options = options_of(one)
    scores = [record["score"] for record in line.records]
    places = digits(heading(one["task"]))
    return [
        heading(one["task"]),
        f"{title} ({options})" if options else title,
        "–" if one["budget"] is None else budget_text(one["budget"]),
        *[f"{score:.{places}f}" for score in scores],
        f"{scores[1] - scores[0]:+.{places}f}",
        str(line.questions),
        str(line.causes.total()),
        *(str(line.causes[cause]) for cause in CAUSES),
    ]


def _compare(first: Path, second: Path, records: tuple[Record, Record]) -> Compared:
    folders = (first, second)
    samples = [read_samples(folder, record) for folder, record in zip(folders, records, strict=True)]
    rights = [read_rights(folder, record) for folder, record in zip(folders, records, strict=True)]
    mine, yours = (_by_question(of_one) for of_one in samples)
    same = {mine[key]: yours[key] for key in mine if key in yours}
    compared = Compared(records, 0)
    for doc, right in rights[0].items():
        partner = same.get(doc)
        if partner is None or partner not in rights[1]:
            continue
        compared.questions += 1
        if abs(right - rights[1][partner]) > 1e-9:
            copies = [(samples[0][one], samples[1][same[one]]) for one in _copies(samples[0], doc) if one in same]
            compared.causes[_cause(copies)] += 1
    return compared


def _cause(copies: Sequence[tuple[Sample, Sample]]) -> str:
    """Why the answers to a question, or to its copies, count differently: the first thing on the way that differs."""
    for one, other in copies:
        if str(_answer(one)) != str(_answer(other)):
            return "prompt" if one["input"] != other["input"] else "picture"
    return "metric" if copies[0][1]["type"] == "VQA" else "extraction"


def _answer(sample: Sample) -> Any:
    answers = sample["filtered_resps"]
    return answers[0] if isinstance(answers, list) and len(answers) == 1 else answers


def _copies(samples: Mapping[int, Sample], doc: int) -> list[int]:
    """The question itself, and MMBench's circular copies of it."""
    copied = samples[doc].get(MMBENCH)
    if copied is None:
        return [doc]
    return [one for one in samples if samples[one][MMBENCH]["index"] % MMBENCH_COPY == copied["index"]]


def _by_question(samples: Mapping[int, Sample]) -> dict[Hashable, int]:
    """Documents by what tells their question from others in both harnesses; those that are alike are counted."""
    found: dict[Hashable, int] = {}
    seen: Counter[Hashable] = Counter()
    for doc, sample in sorted(samples.items()):
        key = _key(sample)
        found[key, seen[key]] = doc
        seen[key] += 1
    return found


def _key(sample: Sample) -> Hashable:
    """MMBench's index, MME's picture, and what the papers ask, without OCR tokens, which VLMEvalKit's data lack."""
    known = sample.get("id", [])
    if MMBENCH in sample:
        known = [sample[MMBENCH]["index"]]
    if scored := next((sample[name] for name in MME if name in sample), None):
        known = [scored["category"], Path(scored["question_id"]).stem]
    text = re.sub(r"\nReference OCR token: .*", "", sample.get("asks", sample["input"]))
    return (tuple(map(str, known)), re.sub(r"\s+", " ", text).lower())
