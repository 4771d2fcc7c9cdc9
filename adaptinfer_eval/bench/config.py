"""What a benchmark measures: defaults < command line, typed and frozen."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator

from adaptinfer_eval.bench.shapes import SHAPES
from adaptinfer_eval.cost import TEXT_BEFORE
from adaptinfer_eval.methods.schedule import Count, Per
from adaptinfer_eval.sweep.config import (
    Budget,
    MethodEntry,
    SweepError,
    Whole,
    explain,
    nearest,
    problems,
    read_yaml,
    shipped,
)

LISTS = ("methods", "budgets", "batch_sizes", "attention", "text_tokens")


class BenchConfig(BaseModel):
    """Every method × budget is measured at every batch size × attention implementation × length of the text."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    pretrained: str | None = None
    """A hub id or a folder; or, without weights to load:"""
    shape: str | None = None
    """One of SHAPES, with random weights made on the device: cost does not depend on their values."""
    methods: tuple[MethodEntry, ...] = Field(
        tuple(MethodEntry(name=name) for name in ("vanilla", "fastv", "pdrop", "sparsevlm", "adaptinfer")), min_length=1
    )
    """Ratios are to vanilla, so it has to be among them."""
    budgets: tuple[Budget, ...] = (64,)
    count: Count = "leaving"
    batch_sizes: tuple[Whole, ...] = Field((1, 8, 16), min_length=1)
    attention: tuple[str, ...] = Field(("sdpa",), min_length=1)
    """Implementations as transformers names them: sdpa, eager, flash_attention_2, …"""
    text_tokens: tuple[Whole, ...] = Field((66,), min_length=1)
    """Of a prompt: TEXT_BEFORE of them before the image, the rest after it."""
    new_tokens: Whole = Field(32, ge=2)
    """Generated for each request, from the second on by decode steps."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    device: str | None = None
    """By default the accelerator there is, else the CPU."""
    compile: StrictBool = False
    """Whether norms and MLPs of the decoder layers are compiled (`compiled`)."""
    warmup: Whole = 2
    runs: Whole = 9
    output: str = ""
    """Folder of the records; by default results/runs/bench-<shape or checkpoint>."""

    @model_validator(mode="after")
    def _sound(self) -> BenchConfig:
        if (self.pretrained is None) == (self.shape is None):
            raise ValueError(f"give either --pretrained CHECKPOINT or --shape {'|'.join(SHAPES)}")
        if self.pretrained is not None and not self.pretrained.strip():
            raise ValueError("pretrained is empty: name a checkpoint on the hub, or its folder")
        if self.shape is not None and self.shape not in SHAPES:
            raise ValueError(f"no shape {self.shape!r}{nearest(self.shape, SHAPES)}")
        if not any(entry.name == "vanilla" for entry in self.methods):
            raise ValueError("methods: ratios are to vanilla; name it too")
        if min(self.text_tokens) <= TEXT_BEFORE:
            raise ValueError(f"text_tokens: {TEXT_BEFORE} are before the image, so at least {TEXT_BEFORE + 1}")
        for key in LISTS:
            items = [item.label.casefold() if isinstance(item, MethodEntry) else item for item in getattr(self, key)]
            if len(set(items)) < len(items):
                raise ValueError(f"{key} names an entry twice: {', '.join(map(str, items))}")
        return self

    @property
    def per(self) -> Per:
        """All the same: every prompt has one image."""
        return "image"

    @property
    def seeds(self) -> tuple[int, ...]:
        return (0,)

    @property
    def repeats(self) -> int:
        return 1

    @property
    def subject(self) -> str:
        """What is measured, in a word."""
        return self.shape or str(self.pretrained)

    @property
    def checkpoint(self) -> str | None:
        """`pretrained`, found among the shipped data if it is a folder there."""
        if self.pretrained is None or Path(self.pretrained).is_dir():
            return self.pretrained
        return str(shipped(self.pretrained) or self.pretrained)

    @property
    def folder(self) -> str:
        return self.output or f"results/runs/bench-{self.subject.strip('/').replace('/', '_')}"


def bench_config(pretrained: str | None, shape: str | None, overrides: Iterable[str]) -> BenchConfig:
    """Read `key=value` overrides: a value is YAML; where a list is wanted, `a,b` is one.

    SweepError names every key that is unknown and every value that is not valid.
    """
    values: dict[str, Any] = {"pretrained": pretrained, "shape": shape}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise SweepError(f"{override!r} is not of the form key=value")
        value = read_yaml(text, override)
        if key in LISTS and not isinstance(value, list):
            value = [read_yaml(part, override) for part in str(text).split(",")]
        values[key] = value
    try:
        return BenchConfig.model_validate(values)
    except ValidationError as error:
        raise SweepError("; ".join(map(_explain, problems(error)))) from None


def _explain(problem: Any) -> str:
    where = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}{nearest(where, BenchConfig.model_fields)}"
    return explain(problem)
