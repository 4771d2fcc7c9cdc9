"""From a configuration to cells, and what each method will cost, before anything is loaded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptinfer_eval.cost import Audit, audit, prefill_macs
from adaptinfer_eval.method import Method, get_method
from adaptinfer_eval.models.options import make_method
from adaptinfer_eval.schedule import Count
from adaptinfer_eval.sweep.config import MethodEntry, Scalar, Shape, SweepConfig, SweepError, nearest
from adaptinfer_eval.sweep.files import file_name

LEFT_OUT: dict[str, dict[str, int]] = {
    "llava": {"image_seq_length": 576},
    "llama": {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008},
}
"""What the config.json of LLaVA-1.5-7B leaves out: transformers' defaults by model type, known without importing it."""


@dataclass(frozen=True)
class Setting:
    """A method as a sweep runs it: with its options and, where it takes one, a budget and a seed.

    `repeat` tells apart measurements of the same, for latency.
    """

    entry: MethodEntry
    budget: float | None = None
    count: Count | None = None
    seed: int | None = None
    repeat: int = 0

    @property
    def label(self) -> str:
        """Unique in a sweep; the first repeat and seed 0 are not mentioned, so that more can be added later."""
        budget = "" if self.budget is None else f"-{self.budget:g}"
        seed = f"-s{self.seed}" if self.seed else ""
        repeat = f"-r{self.repeat}" if self.repeat else ""
        return f"{self.entry.label}{budget}{seed}{repeat}"

    def arguments(self) -> dict[str, Scalar]:
        given: dict[str, Scalar] = dict(self.entry.options)
        if self.budget is not None:
            budget = int(self.budget) if self.budget == int(self.budget) else self.budget
            given |= {"budget": budget, "count": self.count}
        if self.seed is not None:
            given["seed"] = self.seed
        return given

    def build(self) -> Method:
        """The method itself; SweepError where its name, an option or an option's value is wrong."""
        try:
            cls = get_method(self.entry.name)
            fields = [field.name for field in dataclasses.fields(cls)]
            unknown = [key for key in self.arguments() if key not in fields]
            if unknown:
                raise ValueError(f"{self.entry.name} has no option {unknown[0]!r}{nearest(unknown[0], fields)}")
            return make_method(cls, self.arguments(), ())
        except ValueError as error:
            raise SweepError(f"methods: {error}") from error


@dataclass(frozen=True)
class Cell:
    """One (backbone, method, budget, task) of a sweep."""

    backbone: str
    setting: Setting
    task: str

    @property
    def id(self) -> str:
        """Unique in a sweep, and a file name."""
        return file_name(f"{self.backbone}-{self.setting.label}-{self.task}")


@dataclass(frozen=True)
class Planned:
    """A setting with its cost on paper, or the reason why the model cannot run it."""

    setting: Setting
    audit: Audit | None
    relative_cost: float | None
    """Multiply-adds over those of the same prompt with all vision tokens."""
    reason: str = ""


def settings(config: SweepConfig) -> list[Setting]:
    """Every (method, budget, seed, repeat); methods without a budget (vanilla, explicit schedules) first."""
    once: list[Setting] = []
    swept: list[Setting] = []
    for entry in config.methods:
        fields = {field.name for field in dataclasses.fields(_known(entry.name))}
        seeds = config.seeds if "seed" in fields and "seed" not in entry.options else (None,)
        if "budget" not in fields or "schedule" in entry.options or "budget" in entry.options:
            once += [Setting(entry, seed=seed) for seed in seeds]
        elif not config.budgets:
            raise SweepError(f"budgets is empty and {entry.label} needs one: give budgets, or a schedule for it")
        else:
            swept += [Setting(entry, budget, config.count, seed) for budget in config.budgets for seed in seeds]
    return [dataclasses.replace(setting, repeat=n) for n in range(config.repeats) for setting in once + swept]


def plan(config: SweepConfig) -> list[Planned]:
    """Every (method, budget) with its cost. Nothing of the model but its config.json is read."""
    shape = model_shape(config)
    numbers = {**shape.model_dump(), "text_tokens": config.text_tokens}
    tokens = [shape.vision_tokens + config.text_tokens] * shape.num_layers
    everything = prefill_macs(tokens, shape.hidden_size, shape.intermediate_size)
    planned = []
    for setting in settings(config):
        method = setting.build()
        try:
            cost = audit(method, **numbers)
        except ValueError as error:
            planned.append(Planned(setting, None, None, str(error)))
        else:
            planned.append(Planned(setting, cost, cost.macs / everything))
    return planned


def model_shape(config: SweepConfig) -> Shape:
    """From the checkpoint's config.json if that is on this machine, else from the configuration."""
    path = _config_json(config)
    if path is None:
        if config.shape is None:
            raise SweepError(f"{config.pretrained} is not on this machine: download it, or state its `shape`")
        return config.shape
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        model, text = _with_defaults(written), _with_defaults(written.get("text_config") or {})
    except (ValueError, AttributeError) as error:
        raise SweepError(f"{path} is not a model's configuration ({error}): download the checkpoint again") from error
    try:
        return Shape(
            num_layers=text["num_hidden_layers"],
            hidden_size=text["hidden_size"],
            intermediate_size=text["intermediate_size"],
            vision_tokens=model["image_seq_length"],
        )
    except KeyError:  # left to the defaults of a class that only transformers knows
        return _configured_shape(path.parent)


def _config_json(config: SweepConfig) -> Path | None:
    """In the checkpoint's folder, or where the hub's files are kept on this machine."""
    if Path(config.checkpoint).is_dir():
        path = Path(config.checkpoint, "config.json")
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        revision = str(config.model_args.get("revision") or "main")
        found = try_to_load_from_cache(config.checkpoint, "config.json", revision=revision)
    except HFValidationError:  # no name that the hub could have
        return None
    return Path(found) if isinstance(found, str) else None


def _with_defaults(written: Mapping[str, Any]) -> dict[str, Any]:
    return {**LEFT_OUT.get(str(written.get("model_type")), {}), **written}


def _configured_shape(folder: Path) -> Shape:
    from transformers import AutoConfig

    found = AutoConfig.from_pretrained(folder)
    text = found.get_text_config()
    return Shape(
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        vision_tokens=found.image_seq_length,
    )


def _known(name: str) -> type[Method]:
    try:
        return get_method(name)
    except ValueError as error:
        raise SweepError(f"methods: {error}") from error
