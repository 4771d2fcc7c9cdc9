"""The configuration of a sweep: defaults < YAML < command line, typed and frozen."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
)

from adaptinfer_eval.backbones import DEFAULT, FAMILIES, make_family
from adaptinfer_eval.methods import by_file
from adaptinfer_eval.methods.method import available_methods
from adaptinfer_eval.methods.schedule import Count, Per, no_percent
from adaptinfer_eval.sweep.errors import SweepError as SweepError
from adaptinfer_eval.sweep.shift import METHOD, measured_already, read_shift

Scalar = bool | int | float | str | None
Whole = Annotated[int, Field(strict=True, gt=0)]
"""Strict, as every number here: `true` is no number, and neither is a text."""
Budget = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False), BeforeValidator(no_percent)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
OWN_KEYS = {key: key for key in ("pretrained", "dtype", "batch_size")} | {
    "max_batch_size": "batch_size",
    "device": "gpus_per_worker",
    "device_map": "gpus_per_worker",
}
"""Arguments of a backbone's wrapper that a sweep gives it, and the keys that say them here."""
PACKAGE = Path(__file__).parent.parent
RUNS = Path("results/runs")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class MethodEntry(_Frozen):
    """A method by name, with its options. Written `fastv`, or `{name: adaptinfer, variant: paper}`.

    Or by file: `path/to/mine.py:Mine`, in the working directory; here, and for workers elsewhere, by its whole path.
    """

    name: str
    options: dict[str, Scalar] = {}

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, entry: Any) -> Any:
        if isinstance(entry, str):
            return {"name": entry}
        if isinstance(entry, dict) and "options" not in entry:
            return {"name": entry.get("name"), "options": {k: v for k, v in entry.items() if k != "name"}}
        return entry

    @field_validator("name")
    @classmethod
    def _by_file(cls, name: str) -> str:
        if ":" in name and by_file.title(name) in available_methods():
            raise ValueError(f"{by_file.title(name)} is the name of an installed method: give the class another")
        return by_file.absolute(name)

    @property
    def title(self) -> str:
        """What records and tables call it: its name, or its class where it is named by file."""
        return by_file.title(self.name)

    @property
    def label(self) -> str:
        """Unique in a sweep and fit for a file name: `adaptinfer`, `adaptinfer.variant=paper`."""
        return ".".join([self.title, *(f"{key}={value}" for key, value in self.options.items())])


class Shape(_Frozen):
    """The language model's shape, for `plan` where the checkpoint is not on this machine."""

    num_layers: Whole
    hidden_size: Whole
    intermediate_size: Whole
    vision_tokens: Whole
    """Of an image; of a usual one, where images of other sizes have others."""
    merging_layers: Annotated[int, Field(ge=0, strict=True)] | None = None
    """Layers of the vision tower that can merge tokens, up to the one that is read; None: not known, not checked."""


class FoundLayers(_Frozen):
    """What a shift.json proposes."""

    path: str
    num_layers: Whole
    """Of the model in which attention shifts there."""
    layers: str


class SweepConfig(_Frozen):
    """What a sweep runs. Every key may stand in the YAML file or on the command line."""

    name: str = Field(min_length=1)
    harness: Literal["lmms-eval", "vlmevalkit"] = "lmms-eval"
    """Whose data, prompts and scoring."""
    prompts: Literal["papers", "kit"] = "papers"
    """With harness=vlmevalkit: the papers' prompts where there are any, or VLMEvalKit's own."""
    backbone: str = DEFAULT
    """The family of its model: one of `backbones`."""
    pretrained: str
    """A hub id, or a folder: in the working directory, or among the data shipped here."""
    model_args: dict[str, Scalar] = {}
    """More arguments of the backbone's wrapper: revision, conv, image_aspect_ratio, attn_implementation, …"""
    methods: tuple[MethodEntry, ...] = Field(min_length=1)
    budgets: tuple[Budget, ...]
    """Mean vision tokens per layer, or, below 1, the share of each prompt's vision tokens that this is: 25 are tokens,
    0.25 is a share. Vanilla and explicit schedules run once, without one."""
    count: Count = "leaving"
    per: Per = "image"
    """Whether a prompt of several images has the budget once for each of them, or once."""
    tasks: tuple[str, ...] = Field(min_length=1)
    metrics: dict[str, str] = {}
    """Task → which of its metrics is its score, for tasks with several of which none is of the whole."""
    limit: Whole | None = None
    """Questions per task, from the start of the data set; None: all."""
    batch_size: Whole = 1
    dtype: Literal["float32", "float16", "bfloat16", "auto"] = "auto"
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    """A method that has a seed runs once with each; the others once, with the first."""
    repeats: Whole = 1
    """Every cell is measured so many times: for latency, answers do not change."""
    sharing: StrictBool = True
    """A batch's images are encoded once, for all cells, and what its questions about one picture begin with is computed
    once. For latency switch it off."""
    pool: Literal["inline", "processes", "ray"] | None = None
    """Where the workers are; None: one worker in this process, several in processes of their own."""
    workers: Whole | None = None
    """Each loads the model once; None: one per `gpus_per_worker` GPUs of this machine or of the Ray cluster, at least
    one."""
    gpus_per_worker: Whole = 1
    """More than one: the model is spread over them, for checkpoints that do not fit on one."""
    worker_timeout: float = Field(1800.0, strict=True, gt=0, allow_inf_nan=False)
    """Seconds without an answer after which a worker counts as hung: it is ended, and another answers its questions.
    One in this process cannot be ended: there it is only said."""
    ray_address: str | None = None
    """Of the Ray cluster; None: the one that this machine belongs to, or else a local one."""
    shape: Shape | None = None
    text_tokens: Whole = 66
    """Text tokens of a prompt, for the cost on paper only (66: the mean over the paper's tasks)."""
    images: Whole = 1
    """Images of a prompt, for the schedule and cost on paper only."""
    shift: FoundLayers | None = None
    """Written as the path of a shift.json: AdaptInfer at the layers that it proposes is one more of the methods."""
    output: str = ""
    """Folder of the results; by default results/runs/<name>, with the limit if there is one."""

    @model_validator(mode="before")
    @classmethod
    def _default_output(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("output"):
            limit = f"-limit{values['limit']}" if values.get("limit") else ""
            harness = f"-{values['harness']}" if values.get("harness", "lmms-eval") != "lmms-eval" else ""
            prompts = f"-{values['prompts']}" if values.get("prompts", "papers") != "papers" else ""
            output = f"{RUNS}/{values.get('name')}{limit}{harness}{prompts}"
            if RUNS not in Path(os.path.normpath(output)).parents:
                raise ValueError(
                    f"name={values.get('name')}: its results would not be in {RUNS}; give another, or output"
                )
            values = {**values, "output": output}
        return values

    @model_validator(mode="after")
    def _unique(self) -> SweepConfig:
        if self.backbone not in FAMILIES:
            raise ValueError(f"no backbone {self.backbone!r}{nearest(self.backbone, FAMILIES)}")
        if self.prompts != "papers" and self.harness != "vlmevalkit":
            raise ValueError(f"prompts={self.prompts} goes with harness=vlmevalkit: leave it out, or name the harness")
        make_family(self.backbone, self.model_args)  # refuses choices of the family that are not valid
        if not self.pretrained.strip():
            raise ValueError("pretrained is empty: name a checkpoint on the hub, or its folder")
        for key, own in OWN_KEYS.items():
            if key in self.model_args:
                raise ValueError(f"model_args.{key} is what a sweep sets by itself: give {own} instead")
        if not isinstance(revision := self.model_args.get("revision"), str | None):
            raise ValueError(f"model_args.revision={revision}: a text is wanted, put it in quotes")
        if self.pool == "inline" and (self.workers or 1) > 1:
            raise ValueError(f"pool=inline is one worker, not {self.workers}: use pool=processes or pool=ray")
        if unknown := sorted(self.metrics.keys() - set(self.tasks)):
            raise ValueError(f"metrics.{unknown[0]} is none of the tasks{nearest(unknown[0], self.tasks)}")
        lists = {
            "methods": [m.label.casefold() for m in self.methods],  # files may be called alike in any case
            "budgets": self.budgets,
            "tasks": self.tasks,
            "seeds": self.seeds,
        }
        for key, items in lists.items():
            if len(set(items)) < len(items):
                raise ValueError(f"{key} names an entry twice: {', '.join(map(str, items))}")
        return self

    def seed_of(self, setting: int | None) -> int:
        """What a cell is seeded with, given the seed of its setting."""
        return self.seeds[0] if setting is None else setting

    @property
    def checkpoint(self) -> str:
        """`pretrained`, made absolute if it is a folder: in the working directory, or among the shipped data."""
        here = Path(self.pretrained)
        found = here.resolve() if here.is_dir() else shipped(self.pretrained)
        return str(found or self.pretrained)

    def dump(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def shipped(relative: str) -> Path | None:
    """A file or folder shipped with the package: inside it once installed, beside it in a checkout."""
    return next((p for base in (PACKAGE, PACKAGE.parent) if (p := base / relative).exists()), None)


def load_config(source: str, overrides: Iterable[str] = ()) -> SweepConfig:
    """Read the sweep `source` (a name in configs/, or a path) and lay `key=value` overrides over it.

    A value is read as YAML; where a list is wanted, `a,b` is one; `model_args.conv=hf` sets one entry.
    SweepError names the nearest where a configuration or key is unknown, and every value that is not valid.
    """
    path = find_config(source)
    values = read_yaml(path.read_bytes(), str(path))
    if not isinstance(values, dict):
        raise SweepError(f"{path} is not a mapping of keys to values")
    values.setdefault("name", path.stem)
    return make_config(values, overrides, path.name)


def make_config(values: dict[str, Any], overrides: Iterable[str], where: str) -> SweepConfig:
    """A configuration of `values` with `overrides` laid over them; SweepError says that it is wrong in `where`."""
    for override in overrides:
        _lay_over(values, override)
    if isinstance(values.get("shift"), str):
        values["shift"] = read_shift(values["shift"])
    try:
        config = SweepConfig.model_validate(values)
    except ValidationError as error:
        raise SweepError(f"{where}: {'; '.join(map(_explain, problems(error)))}") from None
    found = config.shift
    methods = [(entry.name, entry.options) for entry in config.methods]
    if found is None or measured_already(found.layers, found.num_layers, methods):
        return config
    entry = MethodEntry(name=METHOD, options={"layers": found.layers})
    return config.model_copy(update={"methods": (*config.methods, entry)})


def find_config(source: str) -> Path:
    """The YAML file that `source` names: a path, or the name of a config shipped with the package."""
    if Path(source).suffix in {".yaml", ".yml"}:
        if Path(source).is_file():
            return Path(source)
        raise SweepError(f"no configuration file {source}")
    folder = shipped("configs")
    known = sorted(p.stem for p in folder.glob("*.yaml")) if folder else []
    if folder and source in known:
        return folder / f"{source}.yaml"
    raise SweepError(f"no configuration {source!r}{nearest(source, known)}; or give the path of a YAML file")


def nearest(word: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'? Known: x, y` for an error message about an unknown `word`."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0)
    return f": did you mean {close[0]!r}? Known: {', '.join(known)}" if close else ""


def _lay_over(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise SweepError(f"{override!r} is not of the form key=value")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise SweepError(f"{override!r}: {parent} has no entries to set")
    value = read_yaml(text, override)
    if not parents and key in {"methods", "budgets", "tasks", "seeds"} and not isinstance(value, list):
        if value is None:
            raise SweepError(f"{override!r} has no value: list what you want, as in {key}=a,b")
        value = [read_yaml(part, override) for part in value.split(",")] if isinstance(value, str) else [value]
    values[last] = value


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML's own reader would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: list[Any] = []
        for key, _ in node.value:
            name = key.value if key.tag == "tag:yaml.org,2002:merge" else self.construct_object(key, deep=True)
            if name in names:
                raise yaml.MarkedYAMLError(problem=f"the key {name!r} stands twice", problem_mark=key.start_mark)
            names.append(name)
        return super().construct_mapping(node, deep)


def read_yaml(text: str | bytes, source: str) -> Any:
    """What YAML says; SweepError, naming `source`, where it is none or a key stands twice."""
    try:
        return yaml.load(text, _Loader)  # a safe one
    except (yaml.YAMLError, ValueError) as error:  # ValueError: of a date that there is not
        raise SweepError(f"{source} is not YAML: {' '.join(str(error).split())}") from error


def _explain(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        where = ".".join(map(str, problem["loc"]))
        known = Shape.model_fields if problem["loc"][0] == "shape" else SweepConfig.model_fields
        return f"unknown key {where!r}{nearest(str(problem['loc'][-1]), known)}"
    return explain(problem)


def problems(error: ValidationError) -> list[dict[str, Any]]:
    """What is wrong, without what follows from it: that a list is empty whose only entry is wrong."""
    found: list[dict[str, Any]] = [dict(problem) for problem in error.errors()]
    inner = {tuple(problem["loc"][:-1]) for problem in found}
    return [problem for problem in found if not problem["loc"] or problem["loc"] not in inner]


def explain(problem: Mapping[str, Any]) -> str:
    """One of pydantic's errors in a sentence: the key, what may stand there, and what does."""
    where = ".".join(map(str, problem["loc"]))
    given = f", not {problem['input']!r}" if isinstance(problem["input"], bool | int | float | str) else ""
    return f"{where}: {problem['msg']}{given}" if where else str(problem["msg"]).removeprefix("Value error, ")
