"""How a sweep's cost grows with methods, budgets, tasks and questions per picture: on paper, and measured.

    python benchmarks/growth.py [--questions 32] [--rounds 3]

One worker in this process answers the mini tasks with one token each, so that there are no decode steps, which are not
on paper. Printed are multiply-adds of all questions under all cells, each cell alone and with what they share, as
`adaptinfer-eval plan` counts them; the seconds in the model, the median over rounds in which all sweeps take turns; and
both as multiples of the block's first line. Last, the seconds over what the multiply-adds would take at the speed of
vanilla's plain prefills in the same run, attention counted as causal kernels compute it: how well smaller shapes fill
the machine.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace

from sweep import macs_per_second
from tabulate import tabulate

from adaptinfer_eval.sweep.cells import Cell, in_order_of_stages, plan, settings
from adaptinfer_eval.sweep.config import load_config
from adaptinfer_eval.sweep.identity import Sources
from adaptinfer_eval.sweep.shape import model_shape
from adaptinfer_eval.sweep.shards import in_batches, shards
from adaptinfer_eval.sweep.task_size import TaskSize
from adaptinfer_eval.sweep.tasks import load_tasks, questions
from adaptinfer_eval.sweep.threads import use_threads
from adaptinfer_eval.sweep.whole_cost import Work, work_of_sweep
from adaptinfer_eval.sweep.worker import Answered, Worker

METHODS = ("vanilla", "fastv", "adaptinfer", "dart", "sparsevlm", "visionzip", "vscan", "random")
TASKS = ("mini_gqa", "mini_mme", "mini_scienceqa")  # of four questions about each picture, side by side
IN_A_ROW = 4


class Swept:
    """A sweep of `count` questions a task, `of_a_picture` about each; `answer` it as often as wanted."""

    def __init__(
        self, methods: Sequence[str], budgets: str, tasks: Sequence[str], count: int, of_a_picture: int = IN_A_ROW
    ) -> None:
        limit = count * IN_A_ROW // of_a_picture
        given = (f"methods={','.join(methods)}", f"budgets={budgets}", f"tasks={','.join(tasks)}", f"limit={limit}")
        with tempfile.TemporaryDirectory() as nowhere:
            self.config = load_config("mini", [*given, f"output={nowhere}"])
            _, loaded = load_tasks(self.config)
            every = {name: questions(name, task, limit) for name, task in loaded.items()}
            self.worker = Worker(self.config, Sources.read(self.config, loaded, every))
        asked = {
            name: {
                doc: replace(request, generation={**request.generation, "max_new_tokens": 1})
                for doc, request in of_task.items()
                if doc % IN_A_ROW < of_a_picture
            }
            for name, of_task in every.items()
        }
        self.worker.questions = asked
        found = [Cell(self.config.backbone, setting, name) for setting in settings(self.config) for name in tasks]
        cells = in_order_of_stages(found, model_shape(self.config), 1)
        self.shards = shards(in_batches(self.config, loaded, asked), cells, {cell.id: set() for cell in cells})
        self.settings, self.size = len(found) // len(tasks), TaskSize(count, count // of_a_picture, of_a_picture)
        self.questions, self.text_tokens = count * len(tasks), 0.0
        self.seconds: list[float] = []

    def answer(self) -> None:
        seconds, text = 0.0, []
        for shard in self.shards:
            self.worker.add(shard)
            for event in self.worker.events():
                if isinstance(event, Answered):
                    seconds += sum(answer["seconds"] for answer in event.answers)
                    text += [answer["text_tokens"] for answer in event.answers]
        self.seconds.append(seconds)
        self.text_tokens = statistics.fmean(text)

    def macs(self, causal: bool = False) -> Work:
        """Of all questions under all cells."""
        work = work_of_sweep(self.config, plan(self.config), self.size, self.text_tokens, causal)
        return Work(self.questions * work.alone, self.questions * work.shared)


def blocks(count: int) -> dict[str, dict[str, Swept]]:
    """By what grows, and how much of it there is."""
    some = ("vanilla", "fastv", "adaptinfer")
    budgets = list(itertools.accumulate(("128", "64", "48", "32"), lambda before, next_one: f"{before},{next_one}"))
    return {
        "methods, at 64": {f"{n}": Swept(METHODS[:n], "64", TASKS[:1], count) for n in (1, 2, 4, 8)},
        f"budgets, of {', '.join(some)}": {given: Swept(some, given, TASKS[:1], count) for given in budgets},
        "tasks": {f"{n}": Swept(some, "64", TASKS[:n], count) for n in (1, 2, 3)},
        "questions about a picture": {f"{n}": Swept(some, "64", TASKS[:1], count, n) for n in (1, 2, 4)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=32, help="per task")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    use_threads(1)
    speed = macs_per_second(load_config("mini", ["workers=1"]))
    found = blocks(given.questions)
    sweeps = [swept for block in found.values() for swept in block.values()]
    for _ in range(given.rounds + 1):
        for swept in sweeps:
            swept.answer()
    rows = []
    for what, block in found.items():
        for swept in block.values():
            del swept.seconds[0]  # the first round warms up
        first = next(iter(block.values()))
        for name, swept in block.items():
            work, seconds = swept.macs(), statistics.median(swept.seconds)
            times = (work.shared / first.macs().shared, seconds / statistics.median(first.seconds))
            limit = swept.macs(causal=True).shared / speed
            macs = (work.alone / 1e9, work.shared / 1e9)
            rows.append((what, name, swept.settings, *macs, seconds, *times, seconds / limit))
    head = ("what grows", "", "settings", "GMACs alone", "shared", "seconds", "paper, times", "measured", "to limit")
    print(tabulate(rows, head, "github", floatfmt=("", "", "", ".1f", ".1f", *[".2f"] * 4)))


if __name__ == "__main__":
    main()
