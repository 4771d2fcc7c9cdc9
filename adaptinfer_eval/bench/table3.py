"""Table 3 of AdaptInfer (arXiv 2508.06084) from a benchmark's records, beside the published numbers.

The paper prints means over four tasks' prompts. Here a task is its prompts' mean number of text tokens, as vanilla's
printed FLOPs give it by Eq. 5, and the benchmark is run at these lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from adaptinfer_eval.bench.records import Record, read_bench
from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report import DEFAULT_LINEAGE
from adaptinfer_eval.report.layouts import TITLES, options_of
from adaptinfer_eval.report.published import read_published
from adaptinfer_eval.report.render import written
from adaptinfer_eval.sweep.config import SweepError

TEXT_TOKENS = {"MME": 66, "GQA": 64, "MMBench": 118, "TextVQA": 117}
MODELS = ("llava-1.5-7b", "llava-hf/llava-1.5-7b-hf")
FLOPS, BELOW = "TFLOPs", "below vanilla (%)"
Numbers = Mapping[str, float]
"""Task, or "Average" → number."""


def table3(folder: Path, form: str) -> str:
    """The table as `md`, `csv` or `tex`. SweepError where no record has one of the tasks' lengths of text."""
    records = [r for r in read_bench(folder) if r["status"] == "done" and r["text_tokens"] in TEXT_TOKENS.values()]
    if not records:
        lengths = ",".join(map(str, TEXT_TOKENS.values()))
        raise SweepError(f"no record in {folder} has the tasks' text: run adaptinfer-eval bench text_tokens={lengths}")
    one = records[0]
    on_device = "prefill_device" in one["measured"]
    printed = read_published()[DEFAULT_LINEAGE]["tables"]["table3"]["rows"] if one["subject"] in MODELS else {}
    rows: list[dict[str, str]] = []
    for line in _lines(records):
        rows += _rows(line, _vanilla(line, records), "prefill_device" if on_device else "prefill", printed)
    notes = [
        f"Measured: prefill of the language model, {'device' if on_device else 'wall'} time, medians of {one['runs']} "
        f"runs; {one['subject']}, {one['dtype']}, {one['device']} ({one['cpu']}), torch {one['versions']['torch']}.",
        "Tasks are lengths of text: " + ", ".join(f"{task} {tokens}" for task, tokens in TEXT_TOKENS.items()) + ".",
        "TFLOPs: Eq. 5, a multiply-add is one operation. Published: CUDA latency on one RTX 4090, batch 1."
        if printed
        else "Nothing is published for this model.",
    ]
    return written(rows, notes, form, texts=5)


def _lines(records: Sequence[Record]) -> list[list[Record]]:
    """Records of a line, one per length of the text: a method and budget under an attention and a batch size."""
    lines: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        names = list(TITLES)
        order = names.index(record["method"]) if record["method"] in names else len(names)
        options = options_of(record)
        key = (record["attention"], record["batch_size"], -(record["budget"] or 1e9), order, record["method"], options)
        lines.setdefault(key, []).append(record)
    return [lines[key] for key in sorted(lines)]


def _vanilla(line: Sequence[Record], records: Sequence[Record]) -> list[Record]:
    first = line[0]
    same = ("attention", "batch_size")
    return [r for r in records if r["method"] == "vanilla" and all(r[key] == first[key] for key in same)]


def _rows(
    line: Sequence[Record], vanilla: Sequence[Record], timed: str, printed: Mapping[str, Any]
) -> list[dict[str, str]]:
    first = line[0]
    options = options_of(first)
    title = (TITLES.get(first["method"]) or first["method"]) + (f" ({options})" if options else "")
    tokens = first["vision_tokens"] if first["budget"] is None else first["budget"]
    head = {
        "Method": title,
        "Tokens": budget_text(tokens),
        "Batch": str(first["batch_size"]),
        "Attention": first["attention"],
    }
    published = {} if options or first["batch_size"] != 1 else printed.get(first["method"], {}).get(tokens, {})
    whole = next(iter(printed["vanilla"].values())) if published else {}
    found = {
        FLOPS: _by_task({r["text_tokens"]: r["audit"]["macs"] / 1e12 for r in line}),
        "latency (ms)": _by_task({r["text_tokens"]: 1e3 * r["measured"][timed]["median"] for r in line}),
    }
    plain = _by_task({r["text_tokens"]: 1e3 * r["measured"][timed]["median"] for r in vanilla})
    theirs = {
        FLOPS: _published(published, 0),
        "latency (ms)": _published(published, 1),
    }
    if first["method"] != "vanilla":
        found[BELOW] = _below(found["latency (ms)"], plain)
        theirs[BELOW] = _below(theirs["latency (ms)"], _published(whole, 1))
    rows = []
    for metric, numbers in found.items():
        rows.append({**head, "Metric": metric, **_cells(metric, numbers)})
        if theirs[metric]:
            rows.append({**head, "Metric": f"{metric}, published", **_cells(metric, theirs[metric])})
    return rows


def _by_task(by_text: Mapping[int, float]) -> Numbers:
    found = {task: by_text[text] for task, text in TEXT_TOKENS.items() if text in by_text}
    return {**found, "Average": fmean(found.values())} if len(found) == len(TEXT_TOKENS) else found


def _published(row: Mapping[str, Sequence[float]], column: int) -> Numbers:
    return {"Average" if task == "average" else task: numbers[column] for task, numbers in row.items()}


def _below(numbers: Numbers, vanilla: Numbers) -> Numbers:
    return {task: 100 * (1 - number / vanilla[task]) for task, number in numbers.items() if task in vanilla}


def _cells(metric: str, numbers: Numbers) -> dict[str, str]:
    digits = 3 if metric == FLOPS else 1
    return {task: f"{numbers[task]:.{digits}f}" if task in numbers else "–" for task in (*TEXT_TOKENS, "Average")}
