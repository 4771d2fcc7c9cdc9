"""What is to be observed: a checkpoint of any family, on samples of some tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from adaptinfer_eval.sweep.config import SweepConfig, SweepError, make_config
from adaptinfer_eval.sweep.shape import with_family
from adaptinfer_eval.sweep.tasks import check_tasks

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """`samples` of each of the tasks of `config`, whose `output` is the folder of the results."""

    config: SweepConfig
    samples: int


def read_asked(
    kind: str,
    pretrained: str,
    tasks: Sequence[str],
    samples: int,
    batch_size: int = 8,
    dtype: str = "auto",
    output: Path | None = None,
    budgets: Sequence[float] = (),
    overrides: Iterable[str] | None = None,
) -> Asked:
    """The family is read from the checkpoint's config.json; `kind` names the results' folder where none is given.

    `overrides`: `model_args.conv=hf`, `gpus_per_worker=2`, as for a sweep. SweepError for what is wrong already before
    anything is loaded.
    """
    if samples < 1:
        raise SweepError(f"samples={samples}: ask for one at least")
    overrides = list(overrides or [])
    for override in overrides:
        key = override.partition("=")[0]
        if key != "gpus_per_worker" and not key.startswith("model_args."):
            raise SweepError(f"{override!r}: only model_args.NAME=... and gpus_per_worker=N can be given like this")
    values = {
        "name": f"{kind}-{Path(pretrained).name}",
        "pretrained": pretrained,
        "methods": ["vanilla"],
        "budgets": list(budgets),
        "tasks": list(tasks),
        "batch_size": batch_size,
        "dtype": dtype,
        "output": str(output or ""),
    }
    config = with_family(make_config(values, overrides, kind))
    check_tasks(config, scored=False)
    return Asked(config, samples)


def spread(questions: Mapping[int, T], samples: int) -> dict[int, T]:
    """`samples` of a task's questions, evenly spread from the first on; all where there are no more.

    Data sets come sorted, by category or by picture: their first questions are not like the others.
    """
    documents = sorted(questions)
    taken = min(samples, len(documents))
    chosen = [documents[number * len(documents) // taken] for number in range(taken)]
    return {document: questions[document] for document in chosen}
