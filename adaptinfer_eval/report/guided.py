"""Questions of a sweep that divide two methods, asked once more to see which text tokens guide them."""

from __future__ import annotations

import os
from pathlib import Path

from adaptinfer_eval.analysis.kept.figure_a8 import Guided, legend
from adaptinfer_eval.analysis.kept.guidance import guidance, load_worker
from adaptinfer_eval.report.asked import divided, question_of, read_sweep
from adaptinfer_eval.report.page.documents import documents_of
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.logs import logged_to
from adaptinfer_eval.sweep.tasks import load_tasks


def guided_questions(
    folder: Path, better: str, worse: str, budget: float | None, count: int
) -> tuple[list[Guided], str]:
    """At most `count` questions right under `better` and wrong under `worse`, and what to say of them in the figure.

    Each about another picture, and only those that the model answers again as it did in the sweep. SweepError where
    there is none, and where the model or its data are no longer those of the sweep.
    """
    sweep = read_sweep(folder, (better, worse), budget)
    found = divided(sweep, better, worse)
    sweep = sweep._replace(cells=found.cells)
    shown: list[Guided] = []
    pictures = set[bytes]()
    with logged_to(Path(os.devnull)):
        config = sweep.config.model_copy(update={"tasks": tuple(found.cells)})
        _, tasks = load_tasks(config)
        worker = load_worker(config, tasks, [cell.record for both in found.cells.values() for cell in both])
        for task, doc in found.right:
            if len(shown) == count:
                break
            question = question_of(sweep, task, doc, documents_of(config, tasks[task], [doc])[doc])
            if question.image.tobytes() in pictures:
                continue
            made = [guidance(worker, cell.record, doc) for cell in found.cells[task]]
            if [one.answer for one in made] == [answer.text for answer in question.answers]:
                shown.append(Guided(question, *made))
                pictures.add(question.image.tobytes())
    if not shown:
        raise SweepError(
            f"{folder}: the model answers none of {len(found.right)} questions as it did in the sweep: run it again"
        )
    first, second = (answer.method for answer in shown[0].question.answers)
    note = (
        f"{first} is right and {second} wrong on {len(found.right)} of {found.asked} questions, the other way round on "
        f"{found.other_way_round}. {legend(first, second, shown[0])}"
    )
    return shown, note
