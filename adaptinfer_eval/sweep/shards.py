"""What workers are handed: some questions of a task, for all cells that still lack them, so that images are shared."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import AutoTokenizer

from adaptinfer_eval.models.pictures import stored_pictures
from adaptinfer_eval.models.requests import Request, batches
from adaptinfer_eval.sweep.cells import Cell
from adaptinfer_eval.sweep.config import SweepConfig, SweepError


@dataclass(frozen=True)
class Shard:
    """One batch: the questions about `docs` of `task`, and the cells to answer them for, in this order.

    `avoid`: a worker that could not answer them.
    """

    task: str
    docs: tuple[int, ...]
    cells: tuple[Cell, ...]
    avoid: int | None = None

    def without(self, cell_ids: Iterable[str]) -> Shard:
        gone = set(cell_ids)
        return replace(self, cells=tuple(cell for cell in self.cells if cell.id not in gone))


def in_batches(
    config: SweepConfig, tasks: Mapping[str, Any], asked: Mapping[str, Mapping[int, Request]]
) -> dict[str, list[list[int]]]:
    """The documents of each of lmms-eval's `tasks` in batches, those about one picture together.

    SweepError where the checkpoint has no tokenizer that can be loaded.
    """
    revision = str(config.model_args.get("revision") or "main")
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.checkpoint, revision=revision)
    except (OSError, ValueError) as error:
        raise SweepError(f"the tokenizer of {config.pretrained} could not be loaded: {error}") from error
    picture = stored_pictures({name: task.dataset for name, task in tasks.items()})
    return {
        name: [
            [request.doc_id for request in part]
            for part in batches(of_task.values(), config.batch_size, tokenizer, picture)
        ]
        for name, of_task in asked.items()
    }


def shards(
    batches: Mapping[str, Sequence[Sequence[int]]], cells: Sequence[Cell], done: Mapping[str, set[int]]
) -> list[Shard]:
    """`batches` by task for the cells that have not done them.

    A batch that a cell has done in part (with another batch size, before) becomes a smaller one for that cell.
    """
    found = []
    for task, parts in batches.items():
        of_task = [cell for cell in cells if cell.task == task]
        for part in parts:
            left: dict[tuple[int, ...], list[Cell]] = {}
            for cell in of_task:
                docs = tuple(doc for doc in part if doc not in done[cell.id])
                if docs:
                    left.setdefault(docs, []).append(cell)
            found += [Shard(task, docs, tuple(group)) for docs, group in left.items()]
    return found


def one_question_first(shards: Iterable[Shard], answered: Collection[str]) -> list[Shard]:
    """The same questions for the same cells, in the same order, but for one of every setting, which come first.

    `answered`: labels of settings that have answers from an earlier run, and need none first. Their batches stay as
    they would have been, and so do sampled answers, for which each batch is seeded.
    """
    first: list[Shard] = []
    rest: list[Shard] = []
    tried = set(answered)
    for shard in shards:
        new = tuple(cell for cell in shard.cells if cell.setting.label not in tried)
        tried.update(cell.setting.label for cell in new)
        if not new:
            rest.append(shard)
            continue
        first.append(replace(shard, docs=shard.docs[:1], cells=new))
        old = shard.without([cell.id for cell in new])
        left = replace(shard, docs=shard.docs[1:], cells=new)
        rest += [part for part in (left, old) if part.docs and part.cells]
    return first + rest


class ShardQueue:
    """Shards in order; the last ones are split by cells, so that no worker idles while another has many left."""

    def __init__(self, shards: Iterable[Shard], workers: int) -> None:
        self.waiting = deque(shards)
        self.workers = workers
        self.dropped: set[str] = set()

    def take(self, worker: int, alone: bool) -> Shard | None:
        """The next one for a worker, or None if there is none at the moment. `alone`: there is no other worker."""
        fit = (number for number, shard in enumerate(self.waiting) if alone or shard.avoid != worker)
        if (number := next(fit, None)) is None:
            return None
        shard = self.waiting[number]
        del self.waiting[number]
        # With fewer shards left than workers, some would idle while others answer for all cells.
        pieces = self.workers // (len(self.waiting) + 1)
        if pieces > 1 and len(shard.cells) > 1:
            part = -(-len(shard.cells) // pieces)
            self.give_back([replace(shard, cells=shard.cells[part:])])
            shard = replace(shard, cells=shard.cells[:part])
        return shard

    def give_back(self, shards: Iterable[Shard]) -> None:
        """What was taken and not answered goes first."""
        left = (shard.without(self.dropped) for shard in shards)
        self.waiting.extendleft(reversed([shard for shard in left if shard.cells]))

    def drop(self, cell_id: str) -> None:
        """No more of a cell, also of what is given back later."""
        self.dropped.add(cell_id)
        left = (shard.without([cell_id]) for shard in self.waiting)
        self.waiting = deque(shard for shard in left if shard.cells)
