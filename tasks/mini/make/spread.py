"""How much the order of methods depends on the seed of the model.

    python -m tasks.mini.make.spread results/runs/mini-limit100 results/runs/mini-seed1

Takes the results of the same sweep over models of several seeds; prints the accuracy ratios (percent) beside each other
and, per budget, Kendall's tau between the orders of the first two: 1 where they agree, about 0 where they say nothing.
"""

import argparse
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev

from tabulate import tabulate

from adaptinfer_eval.report.trend import trends
from adaptinfer_eval.report.units import read_units
from adaptinfer_eval.sweep.records import read_records

Ratios = dict[tuple[float, str], float]


def read_ratios(folder: Path) -> Ratios:
    """Accuracy ratio over all tasks by budget and method."""
    records = read_records(folder)
    panel = trends(records, read_units(folder, records)).panels[0]
    return {(point.tokens, name): point.ratio.value for name, points in panel.series.items() for point in points}


def tau(first: list[float], second: list[float]) -> float:
    """Kendall's tau: share of pairs in the same order minus share of pairs in the opposite one."""
    signs = [(a - b) * (c - d) for (a, c), (b, d) in combinations(zip(first, second, strict=True), 2)]
    return fmean((sign > 0) - (sign < 0) for sign in signs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="results of the same sweep, one per model")
    folders = parser.parse_args().folders
    if len(folders) < 2:
        parser.error("one folder has no spread: give the results of two models or more")
    found = [read_ratios(folder) for folder in folders]
    common = [key for key in found[0] if all(key in ratios for ratios in found)]
    rows = []
    for budget in sorted({budget for budget, _ in common}, reverse=True):
        keys = [key for key in common if key[0] == budget]
        for key in sorted(keys, key=lambda key: -fmean(ratios[key] for ratios in found)):
            values = [ratios[key] for ratios in found]
            rows.append((f"{budget:g}", key[1], *values, fmean(values), stdev(values)))
        if len(keys) > 1:
            order = tau(*([ratios[key] for key in keys] for ratios in found[:2]))
            rows.append((f"{budget:g}", f"*order: tau {order:.2f}*"))
    print(tabulate(rows, ("budget", "method", *(folder.name for folder in folders), "mean", "±"), "github", ".1f"))


if __name__ == "__main__":
    main()
