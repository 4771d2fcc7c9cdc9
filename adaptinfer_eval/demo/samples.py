"""Questions of the small model's world, with their pictures, as its tasks ask them."""

from __future__ import annotations

from pathlib import Path

from adaptinfer_eval.sweep.config import load_config
from adaptinfer_eval.sweep.tasks import load_tasks, questions

OF_EACH = 2
"""Questions of each task."""


def samples(folder: Path) -> list[list[str]]:
    """Picture, as a file in `folder`, and question. SweepError where the tasks' data cannot be read."""
    config = load_config("mini", [f"limit={OF_EACH}"])
    _, tasks = load_tasks(config)
    asked = {name: questions(name, task, config.limit) for name, task in tasks.items()}
    found = []
    for doc in range(OF_EACH):  # one of each task, then another
        for name, task in tasks.items():
            request = asked[name][doc]
            (picture,) = task.doc_to_visual(task.dataset[request.split][doc])
            path = folder / f"{name}-{doc}.png"
            picture.save(path)
            found.append([str(path), request.context])
    return found
