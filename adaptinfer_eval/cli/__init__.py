"""`adaptinfer-eval`: from doctor, plan and run to tables, figures and a report. Exit code 0: all went well."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adaptinfer_eval.bench.shapes import SHAPES
from adaptinfer_eval.cli.calibrate import calibrate
from adaptinfer_eval.cli.convert import convert
from adaptinfer_eval.cli.demo import demo
from adaptinfer_eval.cli.figures import figure
from adaptinfer_eval.cli.inside import shift
from adaptinfer_eval.cli.methods import methods
from adaptinfer_eval.cli.vlmevalkit import tsv, vlmevalkit
from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.sweep.files import about_a_file, explained

if TYPE_CHECKING:  # every command imports what it needs: none waits for another's
    from adaptinfer_eval.report.layouts import Layout
    from adaptinfer_eval.sweep.config import SweepConfig
    from adaptinfer_eval.sweep.units import Units

app = typer.Typer(help="Fair comparison of training-free vision-token pruning methods.", no_args_is_help=True)
app.add_typer(figure, name="figure")
app.add_typer(calibrate, name="calibrate")

Config = Annotated[str, typer.Argument(help="Name of a configuration shipped in configs/, or a path to one.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, laid over the configuration.")]
Full = Annotated[bool, typer.Option("--full", help="All questions of every task: limit=null.")]


app.command()(methods)


@app.command()
def plan(config: Config, overrides: Overrides = None, full: Full = False) -> None:
    """Show every (method, budget) with its cost on paper; nothing is loaded."""
    from tabulate import tabulate

    from adaptinfer_eval.cli.whole import whole_table
    from adaptinfer_eval.methods.schedule import budget_text
    from adaptinfer_eval.sweep.cells import plan as plan_sweep
    from adaptinfer_eval.sweep.cells import prompts_planned_for
    from adaptinfer_eval.sweep.tasks import check_tasks

    sweep, _ = _read_sweep(config, overrides, full)
    check_tasks(sweep)
    rows, cells = [], plan_sweep(sweep)
    for planned in cells:
        setting = planned.setting
        times = f", seed {setting.seed}" * bool(setting.seed) + f", repeat {setting.repeat}" * bool(setting.repeat)
        head = (setting.entry.label + times, "–" if setting.budget is None else budget_text(setting.budget))
        if planned.audit is None or planned.relative_cost is None:
            rows.append(
                (*head, f"cannot run: {planned.reason}" if not planned.runs else planned.reason, "", "", "", "")
            )
            continue
        cost = planned.audit
        entering = f"{cost.entering:.2f} ({100 * cost.entering_share:.1f} %)"
        leaving = f"{cost.leaving:.2f} ({100 * cost.leaving_share:.1f} %)"
        numbers = (entering, leaving, f"{cost.macs / 1e12:.4g}", f"{100 * planned.relative_cost:.1f} %")
        rows.append((*head, cost.schedule, *numbers))
    headers = ("method", "budget", "schedule", "entering", "leaving", "TFLOPs", "relative")
    align = ("left", "right", "left", "right", "right", "right", "right")
    print(tabulate(rows, headers, "github", colalign=align, maxcolwidths=[None, None, 50], disable_numparse=True))
    asked = f"the first {sweep.limit}" if sweep.limit else "all"
    print(f"\n{len(rows)} settings x {len(sweep.tasks)} tasks, {asked} questions each: {', '.join(sweep.tasks)}")
    print("Entering, leaving: vision tokens per layer, and their share of the prompt's.")
    print("TFLOPs: the paper's Eq. 5, where a multiply-add is one operation; relative: to all vision tokens.")
    print(prompts_planned_for(sweep))
    if any(planned.audit for planned in cells):
        print(f"\n{whole_table(sweep, cells)}")


@app.command()
def run(config: Config, overrides: Overrides = None, full: Full = False) -> None:
    """Run a sweep and print its table; cells that are finished already are not run again."""
    sweep, columns = _read_sweep(config, overrides, full)
    # Read when torch is loaded: threads that wait for each other by spinning take cores that others need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from adaptinfer_eval.sweep.forks import import_ahead
    from adaptinfer_eval.sweep.memory import keep_memory

    import_ahead(sweep)
    keep_memory()  # with one worker, the model is in this process
    from rich.console import Console

    from adaptinfer_eval.report.page.answers import keep_documents
    from adaptinfer_eval.report.render import render
    from adaptinfer_eval.report.table import make_table
    from adaptinfer_eval.sweep.alike import REMEDY
    from adaptinfer_eval.sweep.records import read_records
    from adaptinfer_eval.sweep.run import run_sweep

    try:
        failures = run_sweep(sweep, Console(file=sys.stderr), keep_documents)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on where this one stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    records = read_records(Path(sweep.output))
    measured = any(record["status"] == "done" for record in records)
    print(render(make_table(*_read(Path(sweep.output)), columns), "md"))
    print(f"\nRecords: {sweep.output}")
    for failure in failures:
        print(f"failed: {failure.cell}: {failure.reason}", file=sys.stderr)
    if failures:
        print(REMEDY, file=sys.stderr)
    elif not measured:
        for reason, cell in {record["reason"]: record["id"] for record in reversed(records)}.items():
            print(f"cannot run: {cell}: {reason}", file=sys.stderr)
        print("the model can run none of the cells: other methods or budgets may fit it", file=sys.stderr)
    if failures or not measured:
        raise typer.Exit(1)


@app.command()
def doctor(
    config: Annotated[
        str, typer.Argument(help="As for `run`: whose checkpoint, tasks and workers to look at.")
    ] = "mini",
    overrides: Overrides = None,
) -> None:
    """Say within a minute whether a sweep would work here, and what to do where not; the exit code is 1 then."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as for a sweep
    from rich.console import Console

    from adaptinfer_eval.doctor import examine
    from adaptinfer_eval.doctor.show import show

    sweep, _ = _read_sweep(config, overrides, full=False)
    if not show(examine(sweep), Console(file=sys.stdout)):
        raise typer.Exit(1)


@app.command()
def bench(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value: methods, budgets, batch_sizes, attention, dtype, …")
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="Checkpoint to measure: a hub id or a folder.")] = None,
    shape: Annotated[str | None, typer.Option(help=f"With random weights: {', '.join(SHAPES)}.")] = None,
) -> None:
    """Measure what methods cost in time and memory, beside vanilla in the same run (docs/cost.md)."""
    from adaptinfer_eval.bench.config import bench_config

    config = bench_config(pretrained, shape, overrides or [])
    from adaptinfer_eval.bench.run import run_bench
    from adaptinfer_eval.bench.table import bench_table

    records = run_bench(config, functools.partial(print, file=sys.stderr))
    print(bench_table(records))
    print(f"\nRecords: {config.folder}")
    if any(record["status"] == "failed" for record in records):
        raise typer.Exit(1)


@app.command("table")
def print_table(
    number: Annotated[
        str,
        typer.Argument(
            help="Of AdaptInfer: 1 to 5 or a6; of other papers: cdpruner:1, … (docs/tables.md); or `harnesses`."
        ),
    ],
    results: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of a sweep's results; by default that of the table's configuration. Several: side by side."
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="md, csv or tex.")] = "md",
    lineage: Annotated[str, typer.Option(help="Whose published numbers to compare with, if not the table's.")] = "",
    verdicts: Annotated[
        bool, typer.Option("--verdicts", help="Instead, every published number: agrees, differs, not measured.")
    ] = False,
    categories: Annotated[bool, typer.Option("--categories", help="Instead, scores by category.")] = False,
    questions: Annotated[
        bool,
        typer.Option("--questions", help="Instead, the questions that need the tokens; those kept and lost."),
    ] = False,
) -> None:
    """Print one of the papers' tables from a sweep's records, beside the published numbers; 3 from a benchmark's."""
    if verdicts + categories + questions > 1:
        raise SweepError("give one of --verdicts, --categories and --questions")
    if number == "harnesses":
        from adaptinfer_eval.report.harnesses import compare_harnesses, harness_table

        first, *more = results or [Path("results/runs/table1")]
        if len(more) > 1:
            raise SweepError("table harnesses compares two sweeps: give --results twice at most")
        other = more[0] if more else Path(f"{first}-vlmevalkit")
        print(harness_table(compare_harnesses(first, other), form))
        return
    if number == "3":
        from adaptinfer_eval.bench.table3 import table3

        print(table3(_only(results) or Path("results/runs/bench-llava-1.5-7b"), form))
        return
    from adaptinfer_eval.report.layouts import layout, layout_of
    from adaptinfer_eval.report.render import render, written
    from adaptinfer_eval.report.table import make_table

    if results and len(results) > 1 and not (verdicts or categories or questions):
        from adaptinfer_eval.report.beside import read_swept, side_by_side

        beside = side_by_side(read_swept(results, layout(number)))
        print(written(beside.rows, beside.notes, form, texts=1))
        return
    folder = _only(results) or Path("results/runs", layout(number).config)
    columns = layout_of(number, folder)
    # Some tables also show what is published without a sweep, and so do verdicts.
    nothing = not results and not (folder / "cells").exists() and (columns.rows or verdicts)
    records, units = _read(None if nothing and not (categories or questions) else folder)
    if verdicts:
        from adaptinfer_eval.report.verdicts import verdict_rows, verdicts_of

        found, notes = verdicts_of(records, units, columns, lineage)
        print(written(verdict_rows(found), notes, form))
        return
    table = make_table(records, units, columns, lineage)
    if categories:
        from adaptinfer_eval.report.views import category_view

        print(written(*category_view(table), form, texts=2))
    elif questions:
        from adaptinfer_eval.report.views import question_view

        print(written(*question_view(table, folder), form))
    else:
        print(render(table, form))


@app.command()
def regress(
    baseline: Annotated[str, typer.Argument(help="Name of a baseline in results/baselines, or a path to a .json.")],
    results: Annotated[
        Path | None, typer.Option(help="Folder of a sweep's results; by default that of the configuration BASELINE.")
    ] = None,
    update: Annotated[bool, typer.Option("--update", help="Make the baseline from the sweep.")] = False,
) -> None:
    """Compare a sweep with a baseline; the exit code is 1 where it fell behind beyond the tolerance."""
    from adaptinfer_eval.report.regress import difference_table, differences, read_baseline, write_baseline
    from adaptinfer_eval.sweep.config import load_config
    from adaptinfer_eval.sweep.records import read_records

    if results is None and baseline.endswith(".json"):
        raise SweepError("give --results: the path of a baseline does not say which sweep to compare")
    folder = results or Path(load_config(baseline).output)
    if update:
        print(f"{write_baseline(baseline, folder)}: made of {folder}")
        return
    compared = differences(read_baseline(baseline), read_records(folder))
    print(difference_table(compared))
    if any(difference.failed for difference in compared):
        raise typer.Exit(1)


@app.command()
def evidence(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of a sweep's results; without one, docs/verified.md is written anew.")
    ] = None,
) -> None:
    """File a sweep of whole tasks on a hub's checkpoint in results/evidence, and write docs/verified.md anew."""
    from adaptinfer_eval.report.evidence import file_evidence, write_page

    if folder is not None:
        print(file_evidence(folder))
    print(write_page())


@app.command()
def report(
    results: Annotated[
        list[Path],
        typer.Option(help="Folder of a sweep's results. Several: the page is about the first, beside the others."),
    ],
    output: Annotated[Path | None, typer.Option(help="File to write; by default report.html in that folder.")] = None,
    bench: Annotated[
        Path | None, typer.Option(help="Folder of `adaptinfer-eval bench`, for latency; by default the sweep's own.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about a sweep."""
    from adaptinfer_eval.report.page.build import report as page
    from adaptinfer_eval.sweep.files import write_text

    path = output or results[0] / "report.html"
    write_text(path, page(results[0], results[1:], bench))
    print(path)


app.command()(convert)
app.command()(shift)
app.command()(demo)
app.command()(vlmevalkit)
app.command()(tsv)


def _only(results: list[Path] | None) -> Path | None:
    if results and len(results) > 1:
        raise SweepError("that is of one sweep: give --results once")
    return results[0] if results else None


def _read(folder: Path | None) -> tuple[list[dict[str, Any]], dict[str, Units]]:
    """Records of a sweep with their scores by unit; without a folder none, for what is shown without a sweep, too."""
    from adaptinfer_eval.report.units import read_units
    from adaptinfer_eval.sweep.records import read_records

    if folder is None:
        return [], {}
    records = read_records(folder)
    return records, read_units(folder, records)


def _read_sweep(config: str, overrides: list[str] | None, full: bool) -> tuple[SweepConfig, Layout]:
    """The sweep and its table's columns. SweepError for what is wrong already before anything is loaded."""
    from adaptinfer_eval.report.headings import headings_of
    from adaptinfer_eval.report.layouts import Layout
    from adaptinfer_eval.sweep.cells import settings
    from adaptinfer_eval.sweep.config import load_config

    sweep = load_config(config, [*(overrides or []), *(["limit=null"] if full else [])])
    for setting in settings(sweep):
        setting.build()
    return sweep, Layout(headings_of(sweep.tasks))


def main() -> None:
    try:
        app()
    except SweepError as error:
        print(f"adaptinfer-eval: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if not about_a_file(error):
            raise
        print(f"adaptinfer-eval: {explained(error)}", file=sys.stderr)
        sys.exit(1)
