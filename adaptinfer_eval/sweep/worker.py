"""One loaded model with its tasks: takes shards, gives answers as they are made."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby
from typing import Any

from transformers import set_seed

from adaptinfer_eval.methods.following import FollowingMethod
from adaptinfer_eval.models.batch import Batch
from adaptinfer_eval.models.checkpoint import CheckpointError
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.kept import kept_tokens
from adaptinfer_eval.models.requests import Request
from adaptinfer_eval.models.tally import Cost
from adaptinfer_eval.pruning import pruned
from adaptinfer_eval.sweep.cells import Cell, settings
from adaptinfer_eval.sweep.config import SweepConfig, SweepError
from adaptinfer_eval.sweep.identity import Sources, changes
from adaptinfer_eval.sweep.shards import Shard
from adaptinfer_eval.sweep.tasks import load_tasks, questions


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its model. `cannot_run`: settings that the model itself refuses, and why."""

    cannot_run: dict[str, str]


@dataclass(frozen=True)
class Answered:
    """A batch of one cell. `worker`: what made it (model, device, batch size)."""

    cell: Cell
    worker: dict[str, Any]
    answers: list[dict[str, Any]]


@dataclass(frozen=True)
class Failed:
    """A cell that cannot go on."""

    cell: Cell
    reason: str


@dataclass(frozen=True)
class Finished:
    """All cells of a shard are answered or have failed."""

    shard: Shard


@dataclass(frozen=True)
class Lost:
    """A worker is gone: it could not load its model, or its process or machine has ended."""

    reason: str


@dataclass(frozen=True)
class Pending:
    """No worker has anything to tell for a while: there may be no room for it yet."""

    reason: str


Event = Ready | Answered | Failed | Finished | Lost | Pending


class Worker:
    """Loads model and data sets once. SweepError where that fails, or where they are not those in `sources`.

    `add` hands it a shard, whose images are loaded in a thread while others are being answered; `events` answers the
    shards that it has.
    """

    def __init__(self, config: SweepConfig, sources: Sources) -> None:
        self.config = config = sources.pin(config)
        _, tasks = load_tasks(config)
        self.model = load_wrapper(config)
        self.questions = {name: questions(name, task, config.limit) for name, task in tasks.items()}
        # On another machine, or after an edit, these could be others than the records will say.
        expected = asdict(sources)
        if changed := changes(expected, asdict(Sources.read(config, tasks, self.questions))):
            raise SweepError(
                f"a worker would measure something else ({changed}): "
                "give every machine the same packages, checkpoint and data, and change none of them during a sweep"
            )
        self.model.task_dict = {name: task.dataset for name, task in tasks.items()}
        for requests in self.questions.values():
            self.model.warn_of_ignored(requests.values())
        self._methods = {setting.label: setting.build() for setting in settings(config)}
        self._largest_trunk = 0  # bytes
        self._loader = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Shard, Future[Batch]]] = deque()

    def ready(self) -> Ready:
        refused = {}
        for label, method in self._methods.items():
            try:
                with pruned(self.model.model, method):
                    pass
            except ValueError as error:  # what the shapes of the language model alone could not tell
                refused[label] = str(error)
        return Ready(refused)

    def add(self, shard: Shard) -> None:
        self._waiting.append((shard, self._loader.submit(self._load, shard)))

    def events(self) -> Iterator[Event]:
        """Answers one of the shards; an error fails the cell that it happened in, with the traceback in the log."""
        shard, loading = self._waiting.popleft()
        try:
            batch = loading.result()
            methods = [self._methods[cell.setting.label] for cell in shard.cells]
            if self.config.sharing:
                batch = self.model.for_methods(batch, methods)
        except Exception as error:
            traceback.print_exc()
            yield from (Failed(cell, f"{type(error).__name__}: {error}") for cell in shard.cells)
        else:
            for cell in shard.cells:
                try:
                    yield self._answer(cell, shard, batch)
                except Exception as error:
                    traceback.print_exc()
                    yield Failed(cell, f"{type(error).__name__}: {error}")
            self._tell_size(batch)
        yield Finished(shard)

    @property
    def idle(self) -> bool:
        return not self._waiting

    def _tell_size(self, batch: Batch) -> None:
        """Of what methods had in common of a batch, which is gone with it: where it is larger than any before."""
        if batch.trunk is not None and batch.trunk.bytes > self._largest_trunk:
            self._largest_trunk = batch.trunk.bytes
            last, size = batch.trunk.height - 1, batch.trunk.bytes / 1e6
            print(f"shared by methods: layers 0 to {last} of {len(batch.prompts)} prompts, {size:.1f} MB")

    def _requests(self, shard: Shard) -> Sequence[Request]:
        return [self.questions[shard.task][doc] for doc in shard.docs]

    def _load(self, shard: Shard) -> Batch:
        requests = self._requests(shard)
        batch: Batch = self.model.load_batch(requests)
        if not any(isinstance(self._methods[cell.setting.label], FollowingMethod) for cell in shard.cells):
            return batch
        try:
            batch = self.model.with_others(requests, batch)
        except Exception as error:  # of other questions: not a reason to fail the methods that do not ask them
            batch = replace(batch, other=error)
        return batch

    def _answer(self, cell: Cell, shard: Shard, batch: Batch) -> Answered:
        self.model.method = self._methods[cell.setting.label]
        requests = self._requests(shard)
        set_seed(self.config.seed_of(cell.setting.seed))  # each batch by itself: others may have been answered before
        with self.model.naming(requests):
            answers, trace = self.model.traced_answer(batch, Generation.read(requests[0].generation))
        is_vision = self.model.anatomy.is_vision(batch.inputs["input_ids"])
        kept = kept_tokens(trace, is_vision, [len(prompt.images) for prompt in batch.prompts])
        lines = [
            {"doc": doc, "text": answer.text, **write_cost(answer.cost), **row}
            for doc, answer, row in zip(shard.docs, answers, kept, strict=True)
        ]
        how = {
            "model": repr(self.model),
            "device": str(self.model.device),
            "batch_size": self.config.batch_size,
            "sharing": self.config.sharing,
        }
        return Answered(cell, how, lines)


def load_wrapper(config: SweepConfig) -> Any:
    """The backbone's wrapper of lmms-eval, under vanilla, with the checkpoint loaded. SweepError where that fails."""
    from lmms_eval.models import get_model

    try:
        wrapper = get_model(f"vanilla_{config.backbone}")(
            pretrained=config.checkpoint,
            batch_size=config.batch_size,
            dtype=config.dtype,
            device_map="auto" if config.gpus_per_worker > 1 else None,
            **config.model_args,
        )
    except CheckpointError as error:
        raise SweepError(str(error)) from error
    except Exception as error:
        traceback.print_exc()
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise SweepError(f"{config.pretrained} could not be loaded: {why}") from error
    wrapper.shares_prefixes = config.sharing
    return wrapper


def write_cost(cost: Cost) -> dict[str, Any]:
    """A cost as JSON; `entering` as runs of layers: vision tokens, number of layers."""
    runs = [[tokens, len(list(layers))] for tokens, layers in groupby(cost.entering)]
    return {**vars(cost), "entering": runs, "seconds": round(cost.seconds, 6)}


def read_cost(answer: Mapping[str, Any]) -> Cost:
    """The cost of a journal's answer."""
    known = {field.name: answer[field.name] for field in fields(Cost)}
    entering = tuple(tokens for tokens, layers in answer["entering"] for _ in range(layers))
    return Cost(**{**known, "entering": entering})
