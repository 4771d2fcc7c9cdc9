"""A benchmark's records: one JSON file per configuration. The schema is described in docs/cost.md."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import adaptinfer_eval as ae
from adaptinfer_eval.bench.config import BenchConfig
from adaptinfer_eval.bench.shapes import family_at_hand
from adaptinfer_eval.cost import TEXT_BEFORE, Decoder, decode_macs, prefill_flops
from adaptinfer_eval.sweep.cells import Setting
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.files import file_name
from adaptinfer_eval.sweep.identity import checkpoint_digest, code_digest, compare, engine_digest
from adaptinfer_eval.sweep.records import read_all, write_json

if TYPE_CHECKING:  # light: records are read without torch
    import torch

    from adaptinfer_eval.bench.measure import Sample

SCHEMA_VERSION = 1
Record = dict[str, Any]


def conditions(config: BenchConfig, device: torch.device) -> Record:
    """What is the same for all records of a folder: numbers are compared across them."""
    import torch

    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores"
    return {
        "schema_version": SCHEMA_VERSION,
        "subject": config.subject,
        "checkpoint": checkpoint_digest(config.checkpoint) if config.checkpoint else "random weights",
        "dtype": config.dtype,
        "compile": config.compile,
        "new_tokens": config.new_tokens,
        "engine": engine_digest(),
        "versions": {name: version(name) for name in ("adaptinfer-eval", "transformers", "torch")},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cpu": cpu,
        "threads": torch.get_num_threads(),
    }


def facts(config: BenchConfig, setting: Setting, model: Any, asked: Mapping[str, Any]) -> Record:
    """What is known before anything runs: the setting, and its cost on paper."""
    shape, vision_tokens = model.config.get_text_config(), family_at_hand(model).image_tokens(model.config)
    known: Record = {
        "id": file_name(f"{setting.label}-b{asked['batch_size']}-{asked['attention']}-t{asked['text_tokens']}"),
        "status": "done",
        "reason": "",
        "method": setting.entry.title,
        "options": setting.entry.options,
        "budget": setting.budget,
        "count": setting.count,
        "code": code_digest(setting.entry.name),
        "vision_tokens": vision_tokens,
        **asked,
        "warmup": config.warmup,
        "runs": config.runs,
    }
    try:
        method = setting.build()
        cost = ae.audit(
            method,
            num_layers=shape.num_hidden_layers,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            vision_tokens=vision_tokens,
            text_tokens=asked["text_tokens"],
        )
    except ValueError as error:
        return {**known, "status": "cannot run", "reason": str(error)}
    prompt = {"text_before": TEXT_BEFORE, "text_after": asked["text_tokens"] - TEXT_BEFORE}
    cached = [n + asked["text_tokens"] for n in method.entering(shape.num_hidden_layers, vision_tokens)]
    audit = {
        "entering": cost.entering,
        "leaving": cost.leaving,
        "entering_share": cost.entering_share,
        "leaving_share": cost.leaving_share,
        "macs": cost.macs,
        "flops": cost.flops,
        "true_flops": prefill_flops(method, Decoder.of(shape), vision_tokens=vision_tokens, **prompt),
        "decode_macs": decode_macs(cached, shape.hidden_size, shape.intermediate_size),
    }
    return {**known, "schedule": cost.schedule, "audit": audit}


def summary(rounds: Sequence[Sample], **others: Sequence[Sample] | None) -> Record:
    """Of each number: all rounds, median, quartiles, and for the rounds of each of `others` (vanilla, chosen) `to_…`.

    That is the median over the rounds of the ratio to the other's number in the same round.
    """
    measured: Record = {}
    for name in rounds[0]:
        values = [values[name] for values in rounds]
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        measured[name] = {"median": statistics.median(values), "quartiles": [low, high], "rounds": values}
        for other, theirs in others.items():
            if theirs is not None:
                ratios = [value / their[name] for value, their in zip(values, theirs, strict=True)]
                measured[name][f"to_{other}"] = statistics.median(ratios)
    return measured


def write_bench(folder: Path, record: Record) -> None:
    write_json(folder / "bench" / f"{record['id']}.json", record)


def read_bench(folder: Path) -> list[Record]:
    """All records of a benchmark's folder; SweepError where there are none or one has another schema."""
    records = read_all(folder / "bench", SCHEMA_VERSION)
    if not records:
        raise SweepError(f"no benchmark records in {folder / 'bench'}: run adaptinfer-eval bench output={folder} first")
    return records


def check_folder(folder: Path, wanted: Record) -> None:
    """SweepError where `folder` holds records that were made under other conditions."""
    for record in read_all(folder / "bench", SCHEMA_VERSION):
        compare(folder / "bench" / f"{record['id']}.json", record, wanted)
