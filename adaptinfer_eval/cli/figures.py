"""`adaptinfer-eval figure NUMBER`: a command of its own for each of the paper's figures, PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptinfer_eval.sweep.errors import SweepError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

figure = typer.Typer(help="Draw one of the paper's figures, as PNG and SVG.", no_args_is_help=True)

Results = Annotated[Path, typer.Option(help="Folder of a sweep's results.")]
Output = Annotated[Path, typer.Option(help="Files to write, without .png and .svg.")]


@figure.command("5")
def trend(results: Results, output: Output = Path("figure5")) -> None:
    """The trend of the accuracy ratio over budgets."""
    from adaptinfer_eval.report.figure import trend_figure
    from adaptinfer_eval.report.trend import trends
    from adaptinfer_eval.report.units import read_units
    from adaptinfer_eval.sweep.records import read_records

    records = read_records(results)
    shown = trends(records, read_units(results, records))
    _save(lambda: trend_figure(shown), output)


@figure.command("a7")
def kept(
    results: Annotated[Path | None, typer.Option(help="Folder of a sweep's results, with --question.")] = None,
    question: Annotated[str | None, typer.Option(help="TASK:ID of the sweep, as in mini_textvqa:3.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture to ask about, with --text.")] = None,
    text: Annotated[str | None, typer.Option(help="What to ask about the picture.")] = None,
    pretrained: Annotated[str, typer.Option(help="Checkpoint to ask, with --image.")] = "tasks/mini/model",
    methods: Annotated[str | None, typer.Option(help="Which of them, as in adaptinfer,fastv.")] = None,
    budget: Annotated[float | None, typer.Option(help="Mean vision tokens per layer.")] = None,
    output: Output = Path("figure_a7"),
) -> None:
    """What each method keeps of a picture after each stage: of a question of a sweep, or of your own."""
    names = tuple(methods.split(",")) if methods else ()
    if results is not None and question is not None and image is None and text is None:
        from adaptinfer_eval.report.asked import asked, read_sweep

        shown = asked(read_sweep(results, names, budget), question)
    elif image is not None and text is not None and results is None and question is None:
        from adaptinfer_eval.analysis.kept.asking import ask

        shown = ask(image, text, pretrained, names, budget)
    else:
        raise SweepError("give --results and --question, or --image and --text")
    from adaptinfer_eval.analysis.kept.figure_a7 import kept_figure

    _save(lambda: kept_figure(shown), output)


@figure.command("a8")
def guides(
    results: Results,
    better: Annotated[str, typer.Option(help="The method that is right.")] = "adaptinfer",
    worse: Annotated[str, typer.Option(help="The method that is wrong.")] = "sparsevlm",
    budget: Annotated[float | None, typer.Option(help="Mean vision tokens per layer.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Questions, at most, each about another picture.")] = 4,
    output: Output = Path("figure_a8"),
) -> None:
    """Questions that one method answers right and another wrong, and the text tokens that guided each."""
    from adaptinfer_eval.report.guided import guided_questions

    shown, note = guided_questions(results, better, worse, budget, count)
    from adaptinfer_eval.analysis.kept.figure_a8 import guidance_figure

    _save(lambda: guidance_figure(shown, note), output)


def _save(draw: Callable[[], Figure], output: Path) -> None:
    from adaptinfer_eval.drawing import save_figure

    for path in save_figure(draw, output):
        print(path)
