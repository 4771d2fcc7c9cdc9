"""The second table of `plan`: what all cells of a sweep compute together."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from adaptinfer_eval.cost import TEXT_BEFORE
from adaptinfer_eval.sweep.cells import Planned
from adaptinfer_eval.sweep.config import SweepConfig
from adaptinfer_eval.sweep.task_size import TaskSize, task_sizes
from adaptinfer_eval.sweep.whole_cost import Work, shares, shares_pictures, work_of_sweep

HEADERS = ("task", "questions", "a picture", "TFLOPs each", "shared", "PFLOPs", "shared", "ratio")


def whole_table(sweep: SweepConfig, planned: Sequence[Planned]) -> str:
    """By task and in all, what is computed with every cell alone and with what is shared; the rules below."""
    sizes = {name: size.limited(sweep.limit) for name, size in task_sizes(sweep.tasks).items()}
    work = {name: work_of_sweep(sweep, planned, sizes.get(name), sweep.text_tokens) for name in sweep.tasks}
    rows = [_row(name, work[name], sizes.get(name)) for name in sweep.tasks]
    if len(sizes) > 1:
        named = "all" if len(sizes) == len(sweep.tasks) else "all with a known number"
        asked = str(sum(size.questions for size in sizes.values()))
        rows.append((named, asked, "", "", "", *_totals([(work[name], size) for name, size in sizes.items()])))
    align = ("left", *["right"] * (len(HEADERS) - 1))
    return f"{tabulate(rows, HEADERS, 'github', colalign=align, disable_numparse=True)}\n\n{_rules(sweep, planned)}"


def _row(name: str, work: Work, size: TaskSize | None) -> tuple[str, ...]:
    each = (f"{work.alone / 1e12:.4g}", f"{work.shared / 1e12:.4g}")
    if size is None:
        return (name, "–", "not known", *each, "–", "–", f"{100 * work.shared / work.alone:.1f} %")
    pictures = "not known" if size.pictures is None else f"{size.of_a_picture:.4g}"
    return (name, str(size.questions), pictures, *each, *_totals([(work, size)]))


def _totals(tasks: Sequence[tuple[Work, TaskSize]]) -> tuple[str, ...]:
    alone = sum(work.alone * size.questions for work, size in tasks)
    shared = sum(work.shared * size.questions for work, size in tasks)
    return (f"{alone / 1e15:.4g}", f"{shared / 1e15:.4g}", f"{100 * shared / alone:.1f} %")


def _rules(sweep: SweepConfig, planned: Sequence[Planned]) -> str:
    cells = sum(one.audit is not None for one in planned)
    left_out = f" ({len(planned) - cells} without a cost on paper left out)" if cells < len(planned) else ""
    begin = f"{min(TEXT_BEFORE, sweep.text_tokens)} text tokens and the vision tokens"
    shared = (
        "Shared are the layers in front of first stages, computed once for all settings that act only in the decoder"
    )
    if not shares(sweep):
        shared = "Nothing is shared: sharing=false, or a model whose caches slide or carry a state."
    elif shares_pictures(sweep):
        shared += (
            ";\nin them, and where images are cut before the decoder without a look at the question, what questions\n"
            f"about one picture begin with ({begin} that go in) once for those of a batch ({sweep.batch_size})."
        )
    else:
        shared += "."
    return (
        f"A question under all {cells} settings{left_out}: each alone, and with what they share.\n"
        f"{shared}\n"
        "A picture: questions about it, mean; where that is not known each is counted as the only one, a bound.\n"
        "The vision tower and decode steps are not in it; the second pass of other_question is."
    )
