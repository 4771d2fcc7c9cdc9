"""`adaptinfer-eval figure NUMBER`: a command of its own for each of the paper's figures, PNG and SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

figure = typer.Typer(help="Draw one of the paper's figures, as PNG and SVG.", no_args_is_help=True)

Results = Annotated[Path, typer.Option(help="Folder of a sweep's results.")]
Output = Annotated[Path, typer.Option(help="Files to write, without .png and .svg.")]


@figure.command("5")
def trend(results: Results, output: Output = Path("figure5")) -> None:
    """The trend of the accuracy ratio over budgets."""
    from adaptinfer_eval.drawing import save_figure
    from adaptinfer_eval.report.figure import trend_figure
    from adaptinfer_eval.report.trend import trends
    from adaptinfer_eval.report.units import read_units
    from adaptinfer_eval.sweep.records import read_records

    records = read_records(results)
    shown = trends(records, read_units(results, records))
    for path in save_figure(lambda: trend_figure(shown), output):
        print(path)
