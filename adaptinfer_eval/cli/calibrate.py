"""`adaptinfer-eval calibrate`: schedules that methods find by looking at a model, on samples of a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from adaptinfer_eval.cli.inside import BatchSize, Dtype, ModelArguments, Pretrained, Samples, long_work

calibrate = typer.Typer(help="Find a schedule for a method in a model, as its authors do.", no_args_is_help=True)

Task = Annotated[str, typer.Option(help="lmms-eval's name, as in scienceqa_img.")]
Output = Annotated[Path | None, typer.Option(help="Folder for the numbers; by default results/runs/calibrate-….")]


@calibrate.command()
def vtw(
    pretrained: Pretrained,
    task: Task,
    samples: Samples = 20,
    threshold: Annotated[
        float, typer.Option(help="Divergence allowed: 0.003 in the authors' code for 7B, 0.0005 for 13B.")
    ] = 0.003,
    output: Output = None,
    batch_size: BatchSize = 8,
    dtype: Dtype = "auto",
    overrides: ModelArguments = None,
) -> None:
    """The first layer from 5 on before which all vision tokens may leave: the answer's first token says (KL)."""
    from adaptinfer_eval.analysis.asked import read_asked

    asked = read_asked(
        f"calibrate-vtw-{task}", pretrained, [task], samples, batch_size, dtype, output, overrides=overrides
    )
    with long_work() as console:
        from adaptinfer_eval.analysis.withdrawal import first_layer, measure_withdrawal

        means = measure_withdrawal(asked, console)
    from tabulate import tabulate

    rows = [(layer, f"{layer - 1}:0", f"{mean:.6f}") for layer, mean in means.items()]
    print(tabulate(rows, ("K", "schedule", "mean KL"), "github", disable_numparse=True))
    layer = first_layer(means, threshold)
    if layer is None:
        print(f"\nNo K has a mean KL of {threshold:g} or less: allow more with --threshold.")
    else:
        print(f"\nvtw: schedule={layer - 1}:0")


@calibrate.command()
def fitprune(
    pretrained: Pretrained,
    task: Task,
    samples: Samples = 20,
    reduction: Annotated[float, typer.Option(help="Percentage to be saved of what vision tokens cost.")] = 60,
    output: Output = None,
    batch_size: BatchSize = 8,
    dtype: Dtype = "auto",
    overrides: ModelArguments = None,
) -> None:
    """How many vision tokens each layer can spare: those that neither text nor vision tokens attend to."""
    from adaptinfer_eval.analysis.asked import read_asked

    asked = read_asked(
        f"calibrate-fitprune-{task}", pretrained, [task], samples, batch_size, dtype, output, overrides=overrides
    )
    with long_work() as console:
        from adaptinfer_eval.analysis.fitting import measure_schedule

        schedule, loss = measure_schedule(asked, reduction, console)
    print(f"Up to {100 * loss:.1f} % of the attention goes in each layer.\n\nfitprune: schedule={schedule}")
