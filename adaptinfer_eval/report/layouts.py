"""Tables: their columns, and which records make a line of them. Each is a file of results/tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from adaptinfer_eval.methods.schedule import Schedule
from adaptinfer_eval.report import DEFAULT_LINEAGE
from adaptinfer_eval.report.headings import Record
from adaptinfer_eval.sweep.config import (
    FoundLayers,
    SweepError,
    explain,
    load_config,
    nearest,
    problems,
    read_yaml,
    shipped,
)

TITLES = {
    "vanilla": "Vanilla",
    "tome": "ToMe",
    "fastv": "FastV",
    "pdrop": "PDrop",
    "sparsevlm": "SparseVLM",
    "adaptinfer": "AdaptInfer",
    "visionzip": "VisionZip",
    "fastervlm": "FasterVLM",
    "vispruner": "VisPruner",
    "divprune": "DivPrune",
    "cdpruner": "CDPruner",
    "scope": "SCOPE",
    "holov": "HoloV",
    "prumerge": "PruMerge",
    "mmtok": "MMTok",
    "hiprune": "HiPrune",
    "trim": "TRIM",
    "vscan": "VScan",
    "dart": "DART",
    "vtw": "VTW",
    "fitprune": "FitPrune",
    "v2drop": "V2Drop",
    "evs": "EVS",
    "vidcom2": "VidCom²",
}
"""The papers' spelling and order of methods; others come after them, by name."""


class Place(NamedTuple):
    """The line that a record belongs to; records of one line in one task are averaged."""

    title: str
    name: str
    """What published.yaml calls the line; empty where its options make it none of the paper's."""
    location: str
    """Layers to prune after, in a table by these."""
    budget: float | None
    rank: int
    """Order among lines with as many vision tokens."""


@dataclass(frozen=True)
class Layout:
    """Columns of a table, and how its lines are made: what its file says, where it has one."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    headings: tuple[str, ...]
    """In the file: `columns`."""
    config: str = ""
    """The configuration that measures it: checkpoint, tasks, methods, budgets. Empty: no paper's table."""
    rows: tuple[str, ...] = ()
    """Methods whose published lines are shown though nothing was measured."""
    budgets: tuple[float, ...] = ()
    """Of those lines; empty: all that are published."""
    lineage: str = DEFAULT_LINEAGE
    """Whose numbers it is compared with, unless it is asked for others."""
    published: Mapping[str, str] = field(default_factory=dict)
    """Lineage → what published.yaml calls the table there; else it is called as the configuration."""
    locations: Mapping[str, str] = field(default_factory=dict)
    """AdaptInfer's lines are sets of layers to prune after, as in Table 5: layers → what the paper calls them."""
    random: tuple[str, ...] = ()
    """The sets of layers that the line `random` of `locations` is the mean of."""
    schedules: tuple[tuple[str, str], ...] = ()
    """(method, explicit schedule) of the configuration that stand for the paper's line: the method's own shape cannot
    meet the budget."""
    budget: float | None = None
    """What `schedules` aim at, with `locations`."""
    found: FoundLayers | None = None
    """The layers of the sweep's shift.json, with `locations`."""

    def place(self, record: Record) -> Place:
        if location := self.variant(record):
            name, shown = ("random", "–") if location in self.random else (location, location)
            rank = list(self.locations).index(name) if name in self.locations else len(self.locations)
            return Place(self._location_title(name), name, shown, record["budget"] or self.budget, rank)
        method: str = record["method"]
        options = options_of(record)
        plain = place_of(method, record["budget"])
        name = method if self._is_papers(record) else ""
        return plain._replace(title=f"{plain.title} ({options})" if options else plain.title, name=name)

    def published_place(self, name: str, tokens: float) -> Place:
        """The line that a paper calls `name`."""
        if not self.locations or name == "vanilla":
            return place_of(name, tokens)
        rank = list(self.locations).index(name) if name in self.locations else len(self.locations)
        return Place(self._location_title(name), name, "–" if name == "random" else name, tokens, rank)

    def _location_title(self, name: str) -> str:
        title = self.locations.get(name, "")
        found = "found layers" if self.found and name == self.found.layers else ""
        return ", ".join(filter(None, [title, found])).capitalize() or "Other"

    def variant(self, record: Record) -> str:
        """What tells records of one line apart, besides seed and repeat: in Table 5, where they prune."""
        return pruning_location(record) if self.locations and self._is_papers(record) else ""

    def _is_papers(self, record: Record) -> bool:
        """Whether the paper means this by the method's name: other options are another method's line."""
        options = {key: str(value).replace("/", ",") for key, value in record["options"].items()}
        if (record["method"], options.get("schedule")) in self.schedules:
            del options["schedule"]
        return options.keys() <= ({"layers"} if self.locations else set())

    def variants(self, name: str) -> tuple[str, ...]:
        """Variants that a line's mean needs to be what the paper's is."""
        return self.random if self.locations and name == "random" else ()


def layout(name: str) -> Layout:
    """The layout of the table `name`, one in results/tables (`1`, `cdpruner:1`) or the path of such a file.

    SweepError where there is none, and where its file is not valid.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else _shipped_tables().get(name.lower().replace(":", "-"))
    if path is None or not path.is_file():
        raise SweepError(f"no table {name!r}: there are {', '.join(table_names())} of a sweep, and 3 of a benchmark")
    values = read_yaml(path.read_bytes(), str(path))
    if not isinstance(values, dict):
        raise SweepError(f"{path} is not a mapping of keys to values")
    if "columns" in values:
        values["headings"] = values.pop("columns")
    try:
        return TypeAdapter(Layout).validate_python(values)
    except ValidationError as error:
        raise SweepError(f"{path.name}: {'; '.join(map(_explain, problems(error)))}") from None


def table_names() -> list[str]:
    return [stem.replace("-", ":") for stem in _shipped_tables()]


def _shipped_tables() -> dict[str, Path]:
    folder = shipped("results/tables")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def _explain(problem: Mapping[str, object]) -> str:
    key = ".".join(map(str, problem["loc"])).replace("headings", "columns")  # type: ignore[call-overload]
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = ["columns", *(name for name in Layout.__dataclass_fields__ if name not in ("headings", "found"))]
        return f"unknown key {key!r}{nearest(key, known)}"
    return "columns are missing" if problem["type"] == "missing" else explain({**problem, "loc": (key,)})


def layout_of(name: str, folder: Path) -> Layout:
    """The layout of the table `name` for the sweep in `folder`."""
    columns, config = layout(name), folder / "config.yaml"
    if not columns.locations or not config.is_file():
        return columns
    return replace(columns, found=load_config(str(config)).shift)


def place_of(method: str, budget: float | None) -> Place:
    """The line of a method without options at a budget."""
    rank = list(TITLES).index(method) if method in TITLES else len(TITLES)
    return Place(TITLES.get(method, method), method, "–", budget, rank)


def options_of(record: Record) -> str:
    """A record's method options as they are shown: `variant=paper, seed=1`."""
    return ", ".join(f"{key}={value}" for key, value in record["options"].items())


def pruning_location(record: Record) -> str:
    """Layers that an AdaptInfer record prunes after, `1,10,20`; empty for other methods."""
    if record["method"] != "adaptinfer":
        return ""
    if "layers" in record["options"]:
        return str(record["options"]["layers"]).replace("/", ",")
    schedule = record["options"].get("schedule") or record["schedule"]
    return ",".join(str(stage.layer) for stage in Schedule.parse(schedule.replace("/", ","))) if schedule else ""
