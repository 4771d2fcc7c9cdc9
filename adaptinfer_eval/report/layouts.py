"""The papers' tables: their columns, and which records make a line of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from adaptinfer_eval.methods.schedule import Schedule
from adaptinfer_eval.sweep.config import FoundLayers, SweepError, load_config

Record = Mapping[str, Any]

HEADINGS = {
    "MME": ("adaptinfer_mme", "mini_mme", "mme"),
    "GQA": ("adaptinfer_gqa", "mini_gqa", "gqa"),
    "MMBench": ("adaptinfer_mmbench_en_dev", "mini_mmbench", "mmbench_en_dev", "mmbench_en_dev_static"),
    "SQA": ("adaptinfer_scienceqa_img", "mini_scienceqa", "scienceqa_img"),
    "TextVQA": ("adaptinfer_textvqa", "mini_textvqa", "textvqa_val"),
}
"""The papers' heading → the tasks that it stands for: those shipped here, and upstream's own."""
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
LOCATIONS = {"1,10,20": "Ours", "0,9,18,27": "Uniform", "2,12,22": "Uniform", "1": "Single", "random": "Random"}
"""Table 5: layers to prune after → what the paper calls them."""
RANDOM_LOCATIONS = ("3", "2,15", "2,8,16", "2,4,8,16", "3,6,23")
"""Table 5: the five sets of layers that its line "Random" is the mean of."""


class Place(NamedTuple):
    """The line that a record belongs to; records of one line in one task are averaged."""

    title: str
    name: str
    """What published.yaml calls the line; empty where its options make it none of the paper's."""
    location: str
    """Table 5 only: layers to prune after."""
    budget: float | None
    rank: int
    """Order among lines with as many vision tokens."""


@dataclass(frozen=True)
class Layout:
    """Columns of a table, and how its lines are made."""

    headings: tuple[str, ...]
    config: str = ""
    """The configuration that measures the paper's table; also its name in published.yaml. Empty: no paper's table."""
    by_location: bool = False
    """AdaptInfer's lines are sets of layers to prune after, as in Table 5."""
    schedules: tuple[tuple[str, str], ...] = ()
    """(method, explicit schedule) of the configuration that stand for the paper's line: the method's own shape cannot
    meet the budget."""
    budget: float | None = None
    """What `schedules` aim at, with `by_location`."""
    found: FoundLayers | None = None
    """The layers of the sweep's shift.json, with `by_location`."""

    def place(self, record: Record) -> Place:
        if location := self.variant(record):
            name, shown = ("random", "–") if location in RANDOM_LOCATIONS else (location, location)
            rank = list(LOCATIONS).index(name) if name in LOCATIONS else len(LOCATIONS)
            return Place(self._location_title(name), name, shown, record["budget"] or self.budget, rank)
        method: str = record["method"]
        options = options_of(record)
        title = TITLES.get(method, method)
        rank = list(TITLES).index(method) if method in TITLES else len(TITLES)
        name = method if self._is_papers(record) else ""
        return Place(f"{title} ({options})" if options else title, name, "–", record["budget"], rank)

    def _location_title(self, name: str) -> str:
        title = LOCATIONS.get(name, "")
        found = "found layers" if self.found and name == self.found.layers else ""
        return ", ".join(filter(None, [title, found])).capitalize() or "Other"

    def variant(self, record: Record) -> str:
        """What tells records of one line apart, besides seed and repeat: in Table 5, where they prune."""
        return pruning_location(record) if self.by_location and self._is_papers(record) else ""

    def _is_papers(self, record: Record) -> bool:
        """Whether the paper means this by the method's name: other options are another method's line."""
        options = {key: str(value).replace("/", ",") for key, value in record["options"].items()}
        if (record["method"], options.get("schedule")) in self.schedules:
            del options["schedule"]
        return options.keys() <= ({"layers"} if self.by_location else set())

    def variants(self, name: str) -> tuple[str, ...]:
        """Variants that a line's mean needs to be what the paper's is."""
        return RANDOM_LOCATIONS if self.by_location and name == "random" else ()


LAYOUTS = {
    "1": Layout(("MME", "GQA", "MMBench", "SQA", "TextVQA"), "table1"),
    "2": Layout(("MME", "SQA", "TextVQA"), "table2"),
    "4": Layout(("MME", "TextVQA"), "table4", schedules=(("sparsevlm", "1:25,6:11,15:6"),)),
    "5": Layout(
        ("MME", "GQA", "TextVQA"),
        "table5",
        by_location=True,
        schedules=(("adaptinfer", "2:368,4:184,8:92,16:46"),),
        budget=128,
    ),
    "a6": Layout(("MME", "MMBench", "TextVQA"), "table_a6"),
}
"""The paper's number of a table → its layout."""


def layout(number: str) -> Layout:
    """The layout of the paper's table `number`; SweepError where there is none here."""
    if number.lower() not in LAYOUTS:
        raise SweepError(f"no table {number!r}: there are {', '.join(LAYOUTS)} of a sweep, and 3 of a benchmark")
    return LAYOUTS[number.lower()]


def layout_of(number: str, folder: Path) -> Layout:
    """The layout of the paper's table `number` for the sweep in `folder`."""
    columns, config = layout(number), folder / "config.yaml"
    if not columns.by_location or not config.is_file():
        return columns
    return replace(columns, found=load_config(str(config)).shift)


def heading(task: str) -> str:
    """The papers' heading for a task: `mini_textvqa` → TextVQA; an unknown task keeps its name."""
    return next((title for title, tasks in HEADINGS.items() if task in tasks), task)


def options_of(record: Record) -> str:
    """A record's method options as they are shown: `variant=paper, seed=1`."""
    return ", ".join(f"{key}={value}" for key, value in record["options"].items())


def headings_of(tasks: Sequence[str]) -> tuple[str, ...]:
    """One column per task; SweepError where two of them would stand in one."""
    found: dict[str, str] = {}
    for task in tasks:
        if (other := found.setdefault(heading(task), task)) != task:
            raise SweepError(f"two tasks stand for {heading(task)} ({other}, {task}): run them in sweeps of their own")
    return tuple(found)


def pruning_location(record: Record) -> str:
    """Layers that an AdaptInfer record prunes after, `1,10,20`; empty for other methods."""
    if record["method"] != "adaptinfer":
        return ""
    if "layers" in record["options"]:
        return str(record["options"]["layers"]).replace("/", ",")
    schedule = record["options"].get("schedule") or record["schedule"]
    return ",".join(str(stage.layer) for stage in Schedule.parse(schedule.replace("/", ","))) if schedule else ""
