"""The sweep of the shipped tiny model that methods and workers are tried on: seconds, and nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.method import get_method
from adaptinfer_eval.sweep.config import MethodEntry, SweepConfig, load_config
from adaptinfer_eval.sweep.identity import Sources
from adaptinfer_eval.sweep.tasks import load_tasks, questions

BUDGET = 64.0
ALIKE, APART = "mini_mme", "mini_textvqa"
"""The first two questions of the one are about one picture, of the other about two, in prompts of unequal length."""


def _entry(name: str) -> MethodEntry:
    """A method at `BUDGET`; one that cannot have it on the shipped model, at the first schedule that it has named."""
    method = get_method(name)
    if issubclass(method, LayerMethod) and method.named_schedules:
        try:
            method(budget=BUDGET).plan(num_layers=32, vision_tokens=576)
        except ValueError:
            return MethodEntry(name=name, options={"schedule": next(iter(method.named_schedules))})
    return MethodEntry(name=name)


def tiny_config(folder: Path, methods: Sequence[str], tasks: Sequence[str] = (ALIKE, APART)) -> SweepConfig:
    """Two questions of each task under each method at `BUDGET`; the logs go to `folder`."""
    return load_config("mini").model_copy(
        update={
            "methods": tuple(map(_entry, methods)),
            "budgets": (BUDGET,),
            "tasks": tuple(tasks),
            "limit": 2,
            "batch_size": 2,
            "workers": 1,
            "output": str(folder),
        }
    )


def tiny_sweep(
    folder: Path, methods: Sequence[str], tasks: Sequence[str] = (ALIKE, APART)
) -> tuple[SweepConfig, Sources]:
    """That sweep, and what its workers have to work with."""
    config = tiny_config(folder, methods, tasks)
    _, loaded = load_tasks(config)
    asked = {name: questions(name, task, config.limit) for name, task in loaded.items()}
    return config, Sources.read(config, loaded, asked)
