"""From a sweep's folder to one HTML page that needs nothing else: no file beside it, no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from adaptinfer_eval.bench.records import read_bench
from adaptinfer_eval.report.beside import read_swept, side_by_side
from adaptinfer_eval.report.categories import categories_of, most_different
from adaptinfer_eval.report.headings import headings_of
from adaptinfer_eval.report.layouts import Layout
from adaptinfer_eval.report.page.answers import questions_section
from adaptinfer_eval.report.page.pareto import cost_plots
from adaptinfer_eval.report.page.plot import legend, trend_plots
from adaptinfer_eval.report.page.provenance import lead, notices, provenance
from adaptinfer_eval.report.page.tables import beside_table, category_table, cost_table, results_table, split_table
from adaptinfer_eval.report.page.templates import template
from adaptinfer_eval.report.page.view import Page
from adaptinfer_eval.report.pareto import Picture, pareto
from adaptinfer_eval.report.split import split_notes, splits_of
from adaptinfer_eval.report.table import Table, make_table
from adaptinfer_eval.report.units import read_units
from adaptinfer_eval.report.views import category_notes
from adaptinfer_eval.sweep.config import load_config
from adaptinfer_eval.sweep.records import read_records

COST = (
    "Schedule: layer:tokens, so many vision tokens go on after that layer; before:tokens, so many reach the first. "
    "Seconds: spent in generate, a request's share of its batch; they compare on one machine at one batch size only."
)
SHARED = (
    "The seconds are without encoding images, which was done once for all methods, and questions of a batch about one "
    "picture share what their prompts begin with (sharing): they are no latencies."
)


def report(folder: Path, others: Sequence[Path] = (), bench: Path | None = None) -> str:
    """The page for the sweep in `folder`, beside `others`; `bench`: a benchmark's folder, else that in `folder` if any.

    SweepError where files are not those of a sweep.
    """
    return render(page_of(folder, others, bench))


def page_of(folder: Path, others: Sequence[Path] = (), bench: Path | None = None) -> Page:
    """Everything that the page says. SweepError where the folder's files are not those of a sweep."""
    records = read_records(folder)
    config = load_config(str(folder / "config.yaml"))
    units = read_units(folder, records)
    layout = Layout(headings_of(config.tasks))
    made = make_table(records, units, layout)
    results = results_table(made)
    plots = trend_plots(records, units, layout.headings)
    categories = {title: categories_of(made.lines, title, made.units) for title in layout.headings}
    splits = splits_of(made.lines, folder, layout.headings)
    first = most_different([one for of_title in categories.values() for one in of_title])
    pictures, pareto_notes = _pictures(made, bench or folder)
    cost = cost_plots(pictures)
    beside = side_by_side(read_swept([folder, *others])) if others else None
    return Page(
        title=config.name,
        lead=lead(config),
        notices=notices(config, records),
        methods=list(dict.fromkeys(row.method for row in results.rows)),
        budgets=list(dict.fromkeys(row.budget for row in results.rows if row.budget)),
        results=results,
        notes=made.notes,
        beside=beside_table(beside) if beside else None,
        beside_notes=beside.notes if beside else [],
        plots=plots,
        legend=legend(plots),
        cost=cost_table(made),
        cost_plots=cost[0],
        cost_legend=cost[1],
        pareto_notes=pareto_notes,
        breakdown=[category_table(made.lines, title, found) for title, found in categories.items() if found],
        breakdown_notes=category_notes(first),
        splits=split_table(splits) if splits else None,
        split_notes=split_notes(splits),
        questions=questions_section(config, made.lines, folder),
        cost_notes=[COST, SHARED] if config.sharing else [COST],
        provenance=provenance(config, records),
        models=sorted({record["model"] for record in records if record["status"] == "done"}),
        config=config.dump(),
    )


def _pictures(made: Table, bench: Path) -> tuple[list[Picture], list[str]]:
    """Accuracy over cost; none where no method has a ratio yet."""
    if not any(ratio for line, ratio in zip(made.lines, made.ratios, strict=True) if line.method != "vanilla"):
        return [], []
    pictures, notes = pareto(made.lines, made.ratios, read_bench(bench) if (bench / "bench").is_dir() else [])
    return pictures, [*(f"{picture.title}. {picture.front_text()}" for picture in pictures), *notes]


def render(page: Page) -> str:
    """HTML, with style and script in it; all texts are escaped."""
    here = Path(__file__).parent
    script = (here / "page.js").read_text(encoding="utf-8")
    style = (here / "page.css").read_text(encoding="utf-8")
    # The browser runs this script and no other, whatever a data set's text may hold.
    script_hash = "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made = template("adaptinfer_eval.report.page", "page")
    return made.render(page=page, script=Markup(script), style=Markup(style), script_hash=script_hash)
