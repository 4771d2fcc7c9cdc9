"""The files about attention shifts: shift.json, its figure, and what is proposed as a configuration of a sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from adaptinfer_eval.analysis.asked import Asked
from adaptinfer_eval.analysis.figures import shift_figure
from adaptinfer_eval.analysis.schedules import Proposal, propose, sweep_yaml
from adaptinfer_eval.drawing import save_figure
from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.sweep.files import write_text
from adaptinfer_eval.sweep.shape import model_shape

SHIFT, SCHEDULE, FIGURE = "shift.json", "schedule.yaml", "figure3"


def write_results(asked: Asked, found: Mapping[str, Any]) -> tuple[Proposal | None, list[Path]]:
    """What is proposed for the budgets asked for, None where nothing is, and the files written.

    `found`: what `measure_shift` gives. There is no configuration where no budget can be reached.
    """
    config, folder = asked.config, Path(asked.config.output)
    proposal = propose(found["histograms"], config.budgets, model_shape(config).vision_tokens)
    written = {**found, "proposed": proposal.to_json() if proposal else None}
    write_text(folder / SHIFT, json.dumps(written, indent=1) + "\n")
    paths = [folder / SHIFT, *save_figure(lambda: figure_of(written), folder / FIGURE)]
    (folder / SCHEDULE).unlink(missing_ok=True)  # of other budgets
    if proposal and proposal.schedules:
        samples = ", ".join(f"{count} samples of {task}" for task, count in found["measured"].items())
        text = sweep_yaml(
            proposal,
            pretrained=config.pretrained,
            backbone=config.backbone,
            num_layers=found["layers"],
            tasks=config.tasks,
            found=samples,
            model_args=config.model_args,
            batch_size=config.batch_size,
            dtype=config.dtype,
        )
        write_text(folder / SCHEDULE, text)
        paths.append(folder / SCHEDULE)
    return proposal, paths


def read_results(folder: Path) -> dict[str, Any]:
    """The shift.json in `folder`. SweepError where there is none, or it is damaged."""
    path = folder / SHIFT
    if not path.is_file():
        raise SweepError(f"there is no {path}: write it with `adaptinfer-eval shift --output {folder}`")
    try:
        written: dict[str, Any] = json.loads(path.read_bytes())
        figure_of(written)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SweepError(f"{path} is damaged ({error}): write it again with `adaptinfer-eval shift`") from error
    return written


def figure_of(written: Mapping[str, Any]) -> Figure:
    """Figure 3, or A.6, of a shift.json."""
    proposed = written["proposed"]["layers"] if written["proposed"] else ()
    return shift_figure(written["histograms"], proposed, written["measured"])
