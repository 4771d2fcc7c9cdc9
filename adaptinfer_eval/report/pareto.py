"""Cost beside accuracy: the ratio over FLOPs and over measured latency, and the settings that none is better than.

A setting is on the Pareto front where no other is at least as accurate for at most as much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report.ratios import Ratio
from adaptinfer_eval.report.rows import Line, vanilla_of
from adaptinfer_eval.sweep.config import SweepError

TIMED = "first_token"
"""Of a benchmark: the vision tower, the prefill and all that a method does in them."""


class Spot(NamedTuple):
    """A setting: `cost` in percent of vanilla's."""

    name: str
    tokens: float
    cost: float
    ratio: Ratio


@dataclass(frozen=True)
class Picture:
    """Accuracy over one kind of cost; `front`: the spots that none is better than, the cheapest first."""

    title: str
    axis: str
    spots: list[Spot]
    front: list[Spot]

    @property
    def series(self) -> dict[str, list[Spot]]:
        """By method, the cheapest first."""
        found: dict[str, list[Spot]] = {}
        for spot in sorted(self.spots, key=lambda spot: spot.cost):
            found.setdefault(spot.name, []).append(spot)
        return found

    def front_text(self) -> str:
        return "On the front: " + ", ".join(f"{spot.name} at {budget_text(spot.tokens)}" for spot in self.front) + "."


def pareto(
    lines: Sequence[Line], ratios: Sequence[Ratio | None], bench: Sequence[Mapping[str, Any]] = ()
) -> tuple[list[Picture], list[str]]:
    """A picture over FLOPs and, with the records of a benchmark, one over latency; and notes.

    SweepError where no method has an accuracy ratio.
    """
    vanilla = vanilla_of(lines)
    known = [(line, ratio) for line, ratio in zip(lines, ratios, strict=True) if ratio and line is not vanilla]
    if vanilla is None or not known:
        raise SweepError("no method was measured on the same questions as vanilla: finish the sweep first")
    flops = {id(line): cost for line, _ in known if (cost := relative_flops(line, vanilla)) is not None}
    pictures = [_picture("FLOPs, traced", "FLOPs of the prefill, % of vanilla's", known, flops)]
    notes = []
    if bench:
        timed, condition = latencies(bench)
        found = {id(line): timed[key] for line, _ in known if (key := _key(line)) in timed}
        timed_titles = {line.place.title for line, _ in known if id(line) in found}
        absent = [line.place.title for line, _ in known if line.place.title not in timed_titles]
        notes.append(condition)
        if found:
            pictures.append(_picture("Latency, measured", "Time to the first token, % of vanilla's", known, found))
        if found and absent:
            notes.append(f"Not in the benchmark: {', '.join(dict.fromkeys(absent))}.")
    return pictures, notes


def relative_flops(line: Line, vanilla: Line) -> float | None:
    """FLOPs in percent of vanilla's, over the tasks that both were measured in."""
    both = [title for title in line.cells if line.cells[title].measured and vanilla.cells[title].measured]
    if not both:
        return None
    own, full = (
        sum(fmean(record["audit"]["flops"] for record in one.cells[title].measured) for title in both)
        for one in (line, vanilla)
    )
    return 100 * own / full


def latencies(bench: Sequence[Mapping[str, Any]]) -> tuple[dict[tuple[str, str, float | None], float], str]:
    """By method, options and budget, in percent of vanilla's, means over lengths of text; and under which conditions.

    Of one attention implementation, the one with most records, at the smallest batch.
    """
    measured = [record for record in bench if record["status"] == "done"]
    done = [record for record in measured if "to_vanilla" in record["measured"].get(TIMED, {})]
    if not done:
        return {}, "Latency: the benchmark has timed no method beside vanilla."
    attention = Counter(record["attention"] for record in done).most_common(1)[0][0]
    batch = min(record["batch_size"] for record in done if record["attention"] == attention)
    found: dict[tuple[str, str, float | None], list[float]] = {}
    for record in done:
        if (record["attention"], record["batch_size"]) == (attention, batch):
            key = (record["method"], str(record["options"]), record["budget"])
            found.setdefault(key, []).append(100 * record["measured"][TIMED]["to_vanilla"])
    one = done[0]
    condition = (
        f"Latency: of the benchmark of {one['subject']} on {one['device']} ({one['cpu']}), {attention}, batch {batch}, "
        f"{one['dtype']}: medians of {one['runs']} rounds, relative to vanilla in the same round."
    )
    return {key: fmean(values) for key, values in found.items()}, condition


def _key(line: Line) -> tuple[str, str, float | None]:
    record = next(record for cell in line.cells.values() for record in cell.records.values())
    return (record["method"], str(record["options"]), record["budget"])


def _picture(title: str, axis: str, known: Sequence[tuple[Line, Ratio]], costs: Mapping[int, float]) -> Picture:
    spots = [Spot(line.place.title, line.tokens, costs[id(line)], ratio) for line, ratio in known if id(line) in costs]
    return Picture(title, axis, spots, front_of(spots))


def front_of(spots: Sequence[Spot]) -> list[Spot]:
    """Those that no other is at least as accurate as for at most as much."""
    found: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.cost, -spot.ratio.value)):
        if not found or spot.ratio.value > found[-1].ratio.value:
            found.append(spot)
    return found
