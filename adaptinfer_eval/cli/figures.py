"""`adaptinfer-eval figure NUMBER`: a command of its own for each of the paper's figures, PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptinfer_eval.cli.inside import BatchSize, Dtype, ModelArguments, Pretrained, Samples, long_work
from adaptinfer_eval.sweep.errors import SweepError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

figure = typer.Typer(help="Draw one of the paper's figures, as PNG and SVG.", no_args_is_help=True)

Results = Annotated[Path, typer.Option(help="Folder of a sweep's results.")]
Shifts = Annotated[Path, typer.Option(help="Folder with the shift.json that `adaptinfer-eval shift` has written.")]
Output = Annotated[Path, typer.Option(help="Files to write, without .png and .svg.")]


@figure.command("2")
def key_text(
    pretrained: Pretrained,
    task: Annotated[str, typer.Option(help="lmms-eval's name, as in textvqa_val.")],
    samples: Samples = 1000,
    results: Annotated[
        Path | None, typer.Option(help="Folder for the numbers; by default results/runs/key-text-TASK-CHECKPOINT.")
    ] = None,
    output: Output = Path("figure2"),
    batch_size: BatchSize = 8,
    dtype: Dtype = "auto",
    overrides: ModelArguments = None,
) -> None:
    """How far layers agree on which text tokens are key: the mean IoU of each layer's with every other's."""
    from adaptinfer_eval.analysis.asked import read_asked

    kind = f"key-text-{task}"
    asked = read_asked(kind, pretrained, [task], samples, batch_size, dtype, results, overrides=overrides)
    with long_work() as console:
        from adaptinfer_eval.analysis.key_text import measure_key_text

        found = measure_key_text(asked, console)
    from adaptinfer_eval.analysis.figures import overlap_figure

    print(Path(asked.config.output, "key_text.json"))
    _save(lambda: overlap_figure(found["overlap"], f"{task}, {found['measured']:,} samples"), output)


@figure.command("3")
def shifts(results: Shifts, output: Output = Path("figure3")) -> None:
    """Where attention shifts, as `adaptinfer-eval shift` has found it."""
    _draw_shifts(results, output)


@figure.command("a6")
def shifts_of_a_larger_model(results: Shifts, output: Output = Path("figure_a6")) -> None:
    """The same as figure 3: in the paper, of LLaVA-1.5-13B."""
    _draw_shifts(results, output)


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


@figure.command("pareto")
def cost_beside_accuracy(
    results: Results,
    bench: Annotated[
        Path | None, typer.Option(help="Folder of `adaptinfer-eval bench`, for latency; by default the sweep's own.")
    ] = None,
    output: Output = Path("pareto"),
) -> None:
    """The accuracy ratio over FLOPs and over measured latency, with the Pareto front."""
    from adaptinfer_eval.report.pareto_figure import pareto_figure
    from adaptinfer_eval.report.views import pareto_view

    pictures, notes = pareto_view(results, bench)
    _save(lambda: pareto_figure(pictures, notes), output)
    for picture in pictures:
        print(f"{picture.title}: {picture.front_text()}")


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


def _draw_shifts(results: Path, output: Path) -> None:
    from adaptinfer_eval.analysis.results import figure_of, read_results

    written = read_results(results)
    _save(lambda: figure_of(written), output)


def _save(draw: Callable[[], Figure], output: Path) -> None:
    from adaptinfer_eval.drawing import save_figure

    for path in save_figure(draw, output):
        print(path)
