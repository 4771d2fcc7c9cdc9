"""`adaptinfer-eval shift`: a look inside a model, at where pruning hurts least."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from adaptinfer_eval.analysis.schedules import Proposal

Pretrained = Annotated[str, typer.Option(help="Checkpoint to look into: a hub id or a folder.")]
Samples = Annotated[int, typer.Option(help="Of each task, evenly spread over its questions; all if there are fewer.")]
BatchSize = Annotated[int, typer.Option(help="Samples at once; the numbers do not depend on it.")]
Dtype = Annotated[str, typer.Option(help="float32, float16, bfloat16, or auto: the checkpoint's.")]
ModelArguments = Annotated[
    list[str] | None, typer.Argument(help="key=value as for `run`: model_args.conv=hf, gpus_per_worker=2.")
]


def shift(
    pretrained: Pretrained,
    tasks: Annotated[str, typer.Option(help="lmms-eval's names, as in textvqa_val,mme.")],
    samples: Samples = 1000,
    budgets: Annotated[str, typer.Option(help="Mean vision tokens per layer to propose schedules for.")] = (
        "128,64,48,32"
    ),
    output: Annotated[
        Path | None, typer.Option(help="Folder to write; by default results/runs/shift-CHECKPOINT.")
    ] = None,
    batch_size: BatchSize = 8,
    dtype: Dtype = "auto",
    overrides: ModelArguments = None,
) -> None:
    """Find the layers where attention shifts, draw figure 3, and propose where to prune this model."""
    from adaptinfer_eval.analysis.asked import read_asked
    from adaptinfer_eval.sweep.config import read_yaml

    wanted = [read_yaml(budget, "--budgets") for budget in budgets.split(",")]
    asked = read_asked("shift", pretrained, tasks.split(","), samples, batch_size, dtype, output, wanted, overrides)
    with long_work() as console:
        from adaptinfer_eval.analysis.shift import measure_shift

        found = measure_shift(asked, console)
    from adaptinfer_eval.analysis.results import write_results

    proposal, paths = write_results(asked, found)
    _show(found, proposal)
    print("\n" + "\n".join(map(str, paths)))


def _show(found: dict[str, Any], proposal: Proposal | None) -> None:
    """What was found, and what follows from it."""
    from tabulate import tabulate

    from adaptinfer_eval.methods.schedule import budgets_text

    rows = []
    for task, histogram in found["histograms"].items():
        tokens = sum(histogram)
        most = sorted(range(len(histogram)), key=lambda layer: -histogram[layer])[:3]
        left_out = ", ".join(f"{count} with {reason}" for reason, count in found["left_out"][task].items())
        shares = ", ".join(f"{layer} ({100 * histogram[layer] / tokens:.0f} %)" for layer in most)
        rows.append(
            (task, f"{found['measured'][task]} of {found['available'][task]}", left_out or "none", tokens, shares)
        )
    print(tabulate(rows, ("task", "samples", "left out", "vision tokens", "most shifts at layer"), "github"))
    if proposal is None:
        print("\nNo layers are proposed: the shifts are not dense in an early and a late region, and sparse elsewhere.")
        return
    print(f"\nPrune after layers {', '.join(map(str, proposal.layers))} of {found['layers']}; for AdaptInfer that is")
    for budget, schedule in proposal.schedules.items():
        print(f"  {budgets_text([float(budget)])}: {schedule}")
    for budget, reason in proposal.unreachable.items():
        print(f"  {budgets_text([float(budget)])}: cannot be reached: {reason}")


@contextmanager
def long_work() -> Iterator[Console]:
    """A console for the progress of work that can be stopped and goes on when it is started again."""
    # Read when torch is loaded: threads that wait for each other by spinning take cores that others need.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from rich.console import Console

    try:
        yield Console(file=sys.stderr)
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on where this one stopped", file=sys.stderr)
        raise typer.Exit(130) from None
