"""One pass over samples of tasks: each is prefilled, and what is measured of it is added up.

Prompts are those that a sweep asks. What a model shows of a batch is kept for that batch only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from adaptinfer_eval.analysis.asked import Asked, spread
from adaptinfer_eval.analysis.sums import Sums, check_same_tasks, open_sums
from adaptinfer_eval.models.batch import Batch
from adaptinfer_eval.models.pictures import stored_pictures
from adaptinfer_eval.models.requests import Request, RequestError, batches, one_ahead
from adaptinfer_eval.pruning.observer import Received
from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.sweep.identity import Sources, digest_files
from adaptinfer_eval.sweep.journal import only_run
from adaptinfer_eval.sweep.logs import logged_to
from adaptinfer_eval.sweep.progress import progress_bar
from adaptinfer_eval.sweep.tasks import load_tasks, questions
from adaptinfer_eval.sweep.worker import load_wrapper

NO_IMAGE, NO_TEXT = "no image", "no text behind the image"


@dataclass(frozen=True)
class Measure:
    """What is measured of each sample and added up.

    `of_batch` makes numbers (B, …) of B prompts that a model is given, and says for each why it does not count, empty
    where it does. `calls`: whose files decide the numbers.
    """

    kind: str
    of_batch: Callable[[Any, Batch], tuple[NDArray[Any], list[str]]]
    calls: Sequence[Callable[..., Any]]


@dataclass(frozen=True)
class Observed:
    """A finished pass. `sums` and `available` (questions there are) by task; `sources`: what it was made from."""

    sums: Mapping[str, Sums]
    available: Mapping[str, int]
    sources: dict[str, Any]


def observe_samples(asked: Asked, measure: Measure, console: Console) -> Observed:
    """Measure all that is not measured yet, with progress on `console`.

    SweepError where the folder holds what was made from something else or another run is writing to it, where tasks or
    checkpoint cannot be loaded, where a sample cannot be prefilled, and for a task of which none can be measured; what
    was measured until then stays.
    """
    config, folder = asked.config, Path(asked.config.output)
    with only_run(folder), logged_to(folder / "log.txt"):
        console.print(Text(f"{config.name}: loading tasks; log: {folder / 'log.txt'}"), soft_wrap=True)
        _, tasks = load_tasks(config, scored=False)
        every = {name: questions(name, task, None) for name, task in tasks.items()}
        chosen = {name: spread(of_task, asked.samples) for name, of_task in every.items()}
        sources = Sources.read(config, tasks, chosen)
        made_from = _made_from(asked, measure, sources)
        check_same_tasks(folder, list(tasks))
        sums = {
            name: open_sums(folder, name, {"task": name, **made_from, "data": sources.data[name]}) for name in tasks
        }
        if any(sums[name].done < len(chosen[name]) for name in tasks):
            try:
                _observe(asked, measure, sources, tasks, chosen, sums, console)
            except RequestError as error:
                raise SweepError(f"{error}; what was measured until then stays in {folder}") from error
    for name, of_task in sums.items():
        if not of_task.measured:
            why = " and ".join(f"{count} with {reason}" for reason, count in of_task.left_out.items())
            raise SweepError(
                f"none of the {of_task.done} samples of {name} can be observed ({why}): "
                "choose tasks that show an image and then ask about it"
            )
    return Observed(sums, {name: len(of_task) for name, of_task in every.items()}, made_from)


def _made_from(asked: Asked, measure: Measure, sources: Sources) -> dict[str, Any]:
    """All that the numbers depend on, but for the task. Not the batch size, which must not change them."""
    config = asked.config
    return {
        "kind": measure.kind,
        "samples": asked.samples,
        "backbone": config.backbone,
        "pretrained": config.pretrained,
        "dtype": config.dtype,
        "model_args": config.model_args,
        "checkpoint": sources.checkpoint,
        "engine": sources.engine,
        "code": digest_files(Path(file) for file in [__file__, *map(inspect.getfile, measure.calls)]),
        "versions": sources.versions,
    }


def _observe(
    asked: Asked,
    measure: Measure,
    sources: Sources,
    tasks: Mapping[str, Any],
    chosen: Mapping[str, Mapping[int, Request]],
    sums: Mapping[str, Sums],
    console: Console,
) -> None:
    with progress_bar(console, "samples") as progress:
        total, done = sum(map(len, chosen.values())), sum(of_task.done for of_task in sums.values())
        bar = progress.add_task("loading the model", total=total, completed=done)
        model = load_wrapper(sources.pin(asked.config))
        model.task_dict = {name: task.dataset for name, task in tasks.items()}
        left = _left(asked.config.batch_size, chosen, sums, model)
        for requests, batch in one_ahead(model.load, left):
            name = requests[0].task
            progress.update(bar, description=name)
            with model.naming(requests):
                measured, reasons = measure.of_batch(model, batch)
            sums[name].add(measured, reasons)
            progress.update(bar, advance=len(requests))


def _left(
    size: int, chosen: Mapping[str, Mapping[int, Request]], sums: Mapping[str, Sums], model: Any
) -> Iterator[list[Request]]:
    """Batches of what is not measured yet, of one task each, those about one picture together.

    The order is the same for all batch sizes, so that what has been done is known by its number.
    """
    picture = stored_pictures(model.task_dict)
    for name, of_task in chosen.items():
        order = [request for part in batches(of_task.values(), 2, model.tokenizer, picture) for request in part]
        yield from (order[start : start + size] for start in range(sums[name].done, len(order), size))


def of_received(
    numbers: Callable[[Sequence[Received]], NDArray[Any]],
) -> Callable[[Any, Batch], tuple[NDArray[Any], list[str]]]:
    """For `Measure.of_batch`: `numbers` of what tokens receive in every layer, with nothing pruned.

    What it makes of prompts without vision tokens or without text behind them does not count.
    """

    def of_batch(model: Any, batch: Batch) -> tuple[NDArray[Any], list[str]]:
        layers: list[Received] = []
        if any(prompt.images or prompt.videos for prompt in batch.prompts):
            model.observe(batch, lambda _, received: layers.append(received))
        if not layers:
            return np.zeros(0), [NO_IMAGE] * len(batch.prompts)
        images, texts = layers[0].vision_mask.any(1).tolist(), layers[0].text_mask.any(1).tolist()
        return numbers(layers), uncounted(images, texts)

    return of_batch


def uncounted(images: Sequence[bool], texts: Sequence[bool]) -> list[str]:
    """Why prompts do not count: they have to have images, and texts behind them."""
    return ["" if text else NO_TEXT if image else NO_IMAGE for image, text in zip(images, texts, strict=True)]
