"""A benchmark's records in one table: medians, and beside prefill its quartiles and ratios.

To vanilla, and to the same tokens per layer chosen beforehand; by the wall, and on an accelerator by the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from adaptinfer_eval.bench.records import Record
from adaptinfer_eval.methods.schedule import budget_text

HEADERS = (
    "method",
    "budget",
    "batch",
    "text",
    "images ms",
    "prefill ms",
    "quartiles",
    "to vanilla",
    "to chosen",
    "device ms",
    "device to vanilla",
    "device to chosen",
    "FLOPs",
    "choosing",
    "first token ms",
    "decode tokens/s",
    "requests/s",
    "peak MB",
    "cache MB",
)


def bench_table(records: Sequence[Record]) -> str:
    """Markdown, one table per attention implementation; below, what could not be measured."""
    parts = []
    for attention in dict.fromkeys(record["attention"] for record in records):
        group = [record for record in records if record["attention"] == attention]
        done = [record for record in group if record["status"] == "done"]
        if done:
            rows = [_row(record, _vanilla(record, done)) for record in done]
            align = ("left", *["right"] * (len(HEADERS) - 1))
            parts.append(f"attention: {attention}\n\n{tabulate(rows, HEADERS, 'github', colalign=align)}")
        for reason in dict.fromkeys(record["reason"] for record in group if record["reason"]):
            concerned = [record for record in group if record["reason"] == reason]
            names = ", ".join(dict.fromkeys(record["id"].rpartition("-b")[0] or record["id"] for record in concerned))
            parts.append(f"{concerned[0]['status']}: {attention}: {names}: {reason}")
    return "\n\n".join(parts)


def _vanilla(record: Record, records: Sequence[Record]) -> Record | None:
    same = ("attention", "batch_size", "text_tokens")
    found = (r for r in records if r["method"] == "vanilla" and all(r[key] == record[key] for key in same))
    return next(found, None)


def _row(record: Record, vanilla: Record | None) -> tuple[str, ...]:
    measured = record["measured"]
    prefill, device = measured["prefill"], measured.get("prefill_device", {})
    low, high = (f"{1e3 * value:.1f}" for value in prefill["quartiles"])
    options = ",".join(f"{key}={value}" for key, value in record["options"].items())
    return (
        f"{record['method']} ({options})" if options else record["method"],
        "–" if record["budget"] is None else budget_text(record["budget"]),
        str(record["batch_size"]),
        str(record["text_tokens"]),
        f"{1e3 * measured['images']['median']:.1f}",
        f"{1e3 * prefill['median']:.1f}",
        f"{low}–{high}",
        *_ratios(prefill),
        f"{1e3 * device['median']:.1f}" if device else "–",
        *_ratios(device),
        "–" if vanilla is None else f"{record['audit']['macs'] / vanilla['audit']['macs']:.3f}",
        "–" if "choosing_share" not in record else f"{100 * record['choosing_share']:.1f} %",
        f"{1e3 * measured['first_token']['median']:.1f}",
        f"{measured['decode_tokens_per_second']['median']:.1f}",
        f"{measured['requests_per_second']['median']:.2f}",
        f"{record['peak_bytes'] / 1e6:.1f}",
        f"{record['cache_bytes'] / 1e6:.1f}",
    )


def _ratios(number: Mapping[str, Any]) -> tuple[str, str]:
    """To vanilla and to the twin whose tokens were chosen beforehand."""
    to_vanilla, to_chosen = (f"{number[key]:.3f}" if key in number else "–" for key in ("to_vanilla", "to_chosen"))
    return to_vanilla, to_chosen
