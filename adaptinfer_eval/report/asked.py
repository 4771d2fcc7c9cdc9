"""One question of a sweep with what methods answered and kept, for figures; and questions that divide two methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from adaptinfer_eval.analysis.kept.picture import read_uri
from adaptinfer_eval.analysis.kept.question import Answer, Question
from adaptinfer_eval.analysis.kept.stages import read_stages
from adaptinfer_eval.methods.schedule import budgets_text
from adaptinfer_eval.report.headings import heading, headings_of
from adaptinfer_eval.report.layouts import Layout
from adaptinfer_eval.report.methods import MethodCell, cells_of, verdict_of
from adaptinfer_eval.report.page.documents import Document, read_documents
from adaptinfer_eval.report.page.samples import read_rights, read_samples
from adaptinfer_eval.report.rows import lines_of
from adaptinfer_eval.sweep.config import SweepConfig, SweepError, load_config, nearest
from adaptinfer_eval.sweep.journal import read_answers
from adaptinfer_eval.sweep.records import read_records


class Swept(NamedTuple):
    """A sweep's folder, and by task what was measured there, without budget or at one of them."""

    folder: Path
    config: SweepConfig
    cells: dict[str, list[MethodCell]]


def read_sweep(folder: Path, methods: Sequence[str] = (), budget: float | None = None) -> Swept:
    """The cells of `methods` (all, where none is named) at `budget`: by default that with the most of them, the lowest.

    SweepError where the folder holds no sweep, and where a method or the budget was not measured in it.
    """
    records = read_records(folder)
    config = load_config(str(folder / "config.yaml"))
    lines = lines_of(records, Layout(headings_of(config.tasks)))
    known = list(dict.fromkeys(record["method"] for record in records if record["status"] == "done"))
    for name in methods:
        if name not in known:
            raise SweepError(f"{folder} has no answers of {name!r}{nearest(name, known)}")
    cells = {task: _of_methods(cells_of(lines, heading(task)), methods) for task in config.tasks}
    budgets = Counter(float(cell.budget) for of_task in cells.values() for cell in of_task if cell.budget)
    if budget is not None and budget not in budgets:
        known_budgets = ", ".join(f"{one:g}" for one in sorted(budgets))
        raise SweepError(f"{folder} has no answers at budget {budget:g}: choose from {known_budgets or 'none'}")
    chosen = max(budgets, key=lambda one: (budgets[one], -one), default=None) if budget is None else budget
    at = ("", "" if chosen is None else f"{chosen:g}")
    return Swept(folder, config, {task: [one for one in found if one.budget in at] for task, found in cells.items()})


def _of_methods(cells: Sequence[MethodCell], methods: Sequence[str]) -> list[MethodCell]:
    """In the order of `methods`."""
    if not methods:
        return list(cells)
    return [cell for name in methods for cell in cells if cell.record["method"] == name]


def asked(sweep: Swept, question: str) -> Question:
    """`question`: TASK:ID, as in `mini_textvqa:3`. SweepError where there is none, or it cannot be drawn."""
    task, _, number = question.rpartition(":")
    by_name = {name: name for name in sweep.config.tasks} | {heading(name): name for name in sweep.config.tasks}
    if not number.isdecimal() or not task:
        raise SweepError(f"{question!r} is not of the form TASK:ID, as in {sweep.config.tasks[0]}:0")
    if task not in by_name:
        raise SweepError(f"{sweep.folder} has no task {task!r}{nearest(task, by_name)}")
    return question_of(sweep, by_name[task], int(number))


def question_of(sweep: Swept, task: str, doc: int, document: Document | None = None) -> Question:
    """Question `doc` of `task`; SweepError where it was not asked, and where its picture or answers are not there.

    `document`: what the data set has for it, where that is known.
    """
    cells = sweep.cells[task]
    if not cells:
        raise SweepError(f"{sweep.folder} has no finished answers to {task}: run the sweep to its end")
    samples = [read_samples(sweep.folder, cell.record) for cell in cells]
    if any(doc not in of_cell for of_cell in samples):
        docs = sorted(samples[0])
        raise SweepError(f"{task} has no question {doc} in {sweep.folder}: choose from {docs[0]} to {docs[-1]}")
    document = document or read_documents(sweep.config, cells[0].record, [doc], sweep.folder)[doc]
    where = f"{heading(task)}, question {doc}"
    if not document.picture:
        raise SweepError(
            f"{where} cannot be drawn: it has not exactly one picture, or where a vision token lies in it is not known "
            "(the model does not see it as one square, whole); choose another question"
        )
    budget = next((cell.budget for cell in cells if cell.budget), "")
    return Question(
        where=f"{where}, {budgets_text([float(budget)])}" if budget else where,
        text=str(samples[0][doc]["input"]),
        target=document.target,
        image=read_uri(document.picture),
        answers=[
            _answer(sweep.folder, cell, doc, str(of_cell[doc]["filtered_resps"]))
            for cell, of_cell in zip(cells, samples, strict=True)
        ],
    )


def _answer(folder: Path, cell: MethodCell, doc: int, text: str) -> Answer:
    made = read_answers(folder, cell.record["id"]).get(doc)
    if made is None:
        raise SweepError(
            f"{folder / 'journal' / cell.record['id']}.jsonl has no answer to question {doc} that can be checked: "
            f"delete {folder / 'cells' / cell.record['id']}.json and start the sweep again"
        )
    verdict = verdict_of(read_rights(folder, cell.record).get(doc))
    return Answer(cell.title, text, verdict, read_stages(made, made["vision_tokens"]))


class Divided(NamedTuple):
    """Questions, (task, doc), that only the first of two methods answers right, in turn from every task.

    `cells`: of both methods, by task. `other_way_round`: how many only the second answers right, of `asked`.
    """

    cells: dict[str, list[MethodCell]]
    right: list[tuple[str, int]]
    other_way_round: int
    asked: int


def divided(sweep: Swept, better: str, worse: str) -> Divided:
    """The questions right under `better` and wrong under `worse`; SweepError where there is none."""
    cells: dict[str, list[MethodCell]] = {}
    queues: list[list[tuple[str, int]]] = []
    other = asked = 0
    for task, of_task in sweep.cells.items():
        two = [next((cell for cell in of_task if cell.record["method"] == name), None) for name in (better, worse)]
        if None in two:
            continue
        cells[task] = [cell for cell in two if cell]
        first, second = (read_rights(sweep.folder, cell.record) for cell in cells[task])
        both = [(doc, first[doc], second[doc]) for doc in sorted(first.keys() & second.keys())]
        queues.append([(task, doc) for doc, *rights in both if rights == [1.0, 0.0]])
        other += sum(rights == [0.0, 1.0] for _, *rights in both)
        asked += len(both)
    right = [one for turn in zip_longest(*queues) for one in turn if one]
    if not right:
        raise SweepError(
            f"{sweep.folder}: none of {asked} questions is right under {better} and wrong under {worse} at one budget: "
            "choose another --budget, or other methods with --better and --worse"
        )
    return Divided(cells, right, other, asked)
