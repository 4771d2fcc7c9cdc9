"""Runs a benchmark: configurations that are compared take turns, and each gets its record."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import torch

from adaptinfer_eval.bench.choosing import choosing_share
from adaptinfer_eval.bench.chosen import chosen
from adaptinfer_eval.bench.compiled import compiled
from adaptinfer_eval.bench.config import BenchConfig
from adaptinfer_eval.bench.measure import Sample, Subject, decoder, kernels, sample, sizes
from adaptinfer_eval.bench.records import (
    Record,
    check_folder,
    conditions,
    facts,
    summary,
    write_bench,
)
from adaptinfer_eval.bench.shapes import build, load, prompts, ready
from adaptinfer_eval.models.checkpoint import CheckpointError
from adaptinfer_eval.models.options import pick_device
from adaptinfer_eval.sweep.cells import settings
from adaptinfer_eval.sweep.config import SweepError, nearest

Show = Callable[[str], None]


def run_bench(config: BenchConfig, show: Show) -> list[Record]:
    """Measure everything that `config` asks for and write the records; `show` is told what is going on.

    SweepError where a method or option is wrong, the folder holds other measurements, the device is not here, or the
    model cannot be loaded or does not fit into memory.
    """
    settings(config)  # a method that does not exist is told before anything is loaded
    try:
        device = pick_device(config.device)
    except ValueError as error:
        raise SweepError(str(error)) from error
    folder, same = Path(config.folder), conditions(config, device)
    check_folder(folder, same)
    show(f"{config.subject}, {config.dtype}, on {same['device']} → {folder}")
    try:
        model = ready(_model(config, getattr(torch, config.dtype), device))
    except torch.OutOfMemoryError as error:
        raise SweepError(f"{config.subject} in {config.dtype} does not fit on {device}: {error}") from error
    records = []
    with torch.inference_mode(), compiled(decoder(model)) if config.compile else nullcontext():
        for attention, text_tokens, batch_size in product(config.attention, config.text_tokens, config.batch_sizes):
            show(f"{attention}, {text_tokens} text tokens, batch {batch_size}")
            asked = {"attention": attention, "text_tokens": text_tokens, "batch_size": batch_size}
            for record in _group(config, model, asked, show):
                record |= same | {"date": datetime.now(UTC).isoformat(timespec="seconds")}
                write_bench(folder, record)
                records.append(record)
    return records


def _model(config: BenchConfig, dtype: torch.dtype, device: torch.device) -> Any:
    if config.checkpoint is None:
        assert config.shape is not None
        return build(config.shape, dtype, device)
    try:
        return load(config.checkpoint, dtype, device)
    except CheckpointError as error:
        raise SweepError(str(error)) from error


def _group(config: BenchConfig, model: Any, asked: Mapping[str, Any], show: Show) -> Iterator[Record]:
    """Records of all settings under one attention implementation, length of the text and batch size."""
    asked_for = {setting.label: setting for setting in settings(config)}
    every = {label: facts(config, setting, model, asked) for label, setting in asked_for.items()}
    inputs = prompts(model, asked["batch_size"], asked["text_tokens"])
    unusable = _use_attention(model, asked["attention"])
    if unusable is not None:
        show(f"  {unusable['status']}: {unusable['reason']}")
    subjects: dict[str, Subject] = {}
    twins: dict[str, Subject] = {}
    for label, record in every.items():
        if record["status"] == "done":
            setting = asked_for[label]
            method = None if setting.entry.name == "vanilla" else setting.build()
            subject = Subject(model, method, inputs, config.new_tokens)
            problem = unusable or _warm_up(subject, config.warmup)
            if problem is None:
                subjects[label] = subject
                twins |= _twin(label, subject, record["vision_tokens"], config.warmup)
            else:
                record |= problem
        if record["status"] != "done" and unusable is None:
            show(f"  {record['id']}: {record['status']}: {record['reason']}")
    rounds: dict[str, list[Sample]] = {label: [] for label in subjects}
    of_twins: dict[str, list[Sample]] = {label: [] for label in twins}
    for _ in range(config.runs):
        for label, subject in subjects.items():
            rounds[label].append(sample(subject))
            if label in twins:
                of_twins[label].append(sample(twins[label]))
    vanilla = next((rounds[label] for label in subjects if asked_for[label].entry.name == "vanilla"), None)
    for label, record in every.items():
        if label in subjects:
            subject = subjects[label]
            measured = summary(rounds[label], vanilla=vanilla, chosen=of_twins.get(label))
            record |= {"measured": measured} | sizes(subject)
            record["choosing_share"] = 0.0 if subject.method is None else choosing_share(subject)
            if model.device.type == "cuda":
                record |= kernels(subject)
        yield record


def _twin(label: str, subject: Subject, vision_tokens: int, warmup: int) -> dict[str, Subject]:
    """The subject's twin with tokens that are chosen beforehand, by `label`, warm; nothing where nothing is pruned."""
    layers = len(decoder(subject.model).layers)
    method = None if subject.method is None else chosen(subject.method, layers, vision_tokens)
    twin = replace(subject, method=method)
    return {} if method is None or _warm_up(twin, warmup) else {label: twin}


def _use_attention(model: Any, implementation: str) -> Record | None:
    """Switch the model to it; what keeps it from being used, if anything does."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known = {"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()}
    if implementation not in known:
        raise SweepError(f"no attention implementation {implementation!r}{nearest(implementation, sorted(known))}")
    try:
        model.set_attn_implementation(implementation)
    except (ImportError, ValueError) as error:
        return {"status": "cannot run", "reason": str(error)}
    return None


def _warm_up(subject: Subject, times: int) -> Record | None:
    """Run untimed; what keeps it from running, if anything does."""
    try:
        for _ in range(times):
            sample(subject)
    except ValueError as error:  # a refusal of the engine: what the decoder's shape alone could not tell
        return {"status": "cannot run", "reason": str(error)}
    except torch.OutOfMemoryError as error:
        problem = {"status": "failed", "reason": f"out of memory: {error}"}
    else:
        return None
    gc.collect()
    torch.accelerator.empty_cache()
    return problem
