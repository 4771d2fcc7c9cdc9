"""The questions on which methods differ most, with every method's answer and the patches that it kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adaptinfer_eval.analysis.kept.stages import counts, read_stages
from adaptinfer_eval.backbones import make_family
from adaptinfer_eval.report.headings import headings_of
from adaptinfer_eval.report.layouts import Layout
from adaptinfer_eval.report.methods import MethodCell, cells_of, verdict_of
from adaptinfer_eval.report.page import view
from adaptinfer_eval.report.page.documents import Document, documents_of, read_documents, write_documents
from adaptinfer_eval.report.page.overlay import overlay
from adaptinfer_eval.report.page.questions import Chosen, Place, choose
from adaptinfer_eval.report.page.samples import Samples, read_rights, read_samples
from adaptinfer_eval.report.rows import Line, lines_of
from adaptinfer_eval.report.units import read_units
from adaptinfer_eval.sweep.config import SweepConfig
from adaptinfer_eval.sweep.journal import Answers, read_answers
from adaptinfer_eval.sweep.records import read_records

MOST = 24
"""Questions on a page: few enough for a page of a few megabytes."""
INTRO = (
    "The {} questions that divide the methods at one budget most evenly into right and wrong, in turn from every task "
    "and budget. They show how methods differ, not which is better. Each answer is judged by itself, not with its pair "
    "in MME or its circular copies in MMBench."
)
LEGEND = (
    "Pictures are as the model saw them. What a method dropped is veiled, the more the earlier; an outline is around "
    "the patches that it kept to the end. Where patches were merged, lines are around those of one token. The numbers "
    "are the patches left after each stage, and the tokens that were merged."
)
UNDRAWN = (
    "An answer is without a picture where its journal is missing or has no checksums, or where its vision tokens are "
    "not the patches of one square picture."
)


class Answered(NamedTuple):
    """A cell with its answers: as lmms-eval scored them, and as they were made."""

    cell: MethodCell
    samples: Samples
    rights: dict[int, float]
    journal: Answers


def questions_section(config: SweepConfig, lines: Sequence[Line], folder: Path) -> view.Questions:
    """Reads the samples and journals of `folder`, and the data sets where they can be had."""
    chosen = _chosen(lines, folder)
    if not chosen:
        return view.Questions(["There is no budget at which two methods differ in which questions they get right."])
    intro = [INTRO.format(sum(len(here) for here in chosen.values())), LEGEND]
    if make_family(config.backbone, config.model_args).square is None:
        intro[1] = f"Without pictures: where a vision token of {config.backbone} lies in them is not known here."
    shown: list[view.Question] = []
    images: list[view.Image] = []
    for heading, here in chosen.items():
        cells = cells_of(lines, heading)
        try:
            documents = read_documents(config, cells[0].record, [one.doc for one in here], folder)
        except Exception as error:  # whatever a data set's loader, or the network under it, raises
            documents = {}
            reason = f"its data could not be read here ({type(error).__name__}: {error})"
            intro.append(f"{heading} is without pictures and right answers: {reason}.")
        of_task = _images(heading, documents)
        shown += _shown(here, cells, folder, documents, of_task)
        images += of_task.values()
    if images and any(answer.picture is None for question in shown for answer in question.answers):
        intro.append(UNDRAWN)
    return view.Questions(intro, shown, images)


def keep_documents(config: SweepConfig, tasks: Mapping[str, Any]) -> None:
    """Keep in a sweep's folder what its page shows of the data sets, so that the page needs none of them.

    `tasks`: lmms-eval's, their data sets loaded. SweepError where the folder's files are not those of a sweep.
    """
    folder = Path(config.output)
    records = read_records(folder)
    read_units(folder, records)  # SweepError where one is missing or damaged
    lines = lines_of(records, Layout(headings_of(config.tasks)))
    for heading, chosen in _chosen(lines, folder).items():
        record = cells_of(lines, heading)[0].record
        write_documents(folder, record, documents_of(config, tasks[record["task"]], [one.doc for one in chosen]))


def _chosen(lines: Sequence[Line], folder: Path) -> dict[str, list[Chosen]]:
    """The questions to show, by the task's heading."""
    candidates: dict[Place, dict[int, list[float]]] = {}
    for heading in lines[0].cells:
        candidates |= _candidates(heading, cells_of(lines, heading), folder)
    chosen: dict[str, list[Chosen]] = {}
    for one in choose(candidates, MOST):
        chosen.setdefault(one.task, []).append(one)
    return chosen


def _images(heading: str, documents: Mapping[int, Document]) -> dict[int, view.Image]:
    return {
        doc: view.Image(f"picture-{heading}-{doc}", found.picture, found.small)
        for doc, found in documents.items()
        if found.picture
    }


def _candidates(heading: str, cells: Sequence[MethodCell], folder: Path) -> dict[Place, dict[int, list[float]]]:
    """For every budget with several methods, by question: how right each of them was."""
    found: dict[Place, dict[int, list[float]]] = {}
    for budget in dict.fromkeys(cell.budget for cell in cells if cell.budget):
        several = [read_rights(folder, cell.record) for cell in cells if cell.budget == budget]
        if len(several) > 1:
            same = sorted(set.intersection(*map(set, several)))
            found[heading, float(budget)] = {doc: [of_method[doc] for of_method in several] for doc in same}
    return found


def _shown(
    chosen: Sequence[Chosen],
    cells: Sequence[MethodCell],
    folder: Path,
    documents: Mapping[int, Document],
    images: Mapping[int, view.Image],
) -> list[view.Question]:
    """The chosen questions of one task, with the answers of vanilla and of the methods at the budget."""
    budgets = {"", *(f"{one.budget:g}" for one in chosen)}
    loaded = [
        Answered(
            cell,
            read_samples(folder, cell.record),
            read_rights(folder, cell.record),
            read_answers(folder, cell.record["id"]),
        )
        for cell in cells
        if cell.budget in budgets
    ]
    shown = []
    for one in chosen:
        budget = f"{one.budget:g}"
        asked = [method for method in loaded if method.cell.budget in ("", budget) and one.doc in method.samples]
        shown.append(
            view.Question(
                id=f"question-{one.task}-{one.doc}",
                task=one.task,
                budget=budget,
                doc=one.doc,
                text=str(asked[-1].samples[one.doc]["input"]),
                target=documents[one.doc].target if one.doc in documents else "",
                answers=[_answer(method, one.doc, images.get(one.doc)) for method in asked],
            )
        )
    return shown


def _answer(method: Answered, doc: int, image: view.Image | None) -> view.Answer:
    verdict = verdict_of(method.rights.get(doc))
    text = str(method.samples[doc]["filtered_resps"])
    made = method.journal.get(doc)
    if made is None:
        return view.Answer(method.cell.title, text, verdict, "", None)
    stages = read_stages(made, made["vision_tokens"])
    drawn = overlay(stages, made["vision_tokens"], image.id, method.cell.title) if image else None
    return view.Answer(method.cell.title, text, verdict, counts(stages), drawn)
