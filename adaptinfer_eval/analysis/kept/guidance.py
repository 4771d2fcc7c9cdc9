"""Which text tokens guide a method at each stage: as it saw them, in a run of its own over one question."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import set_seed

from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.method import Method
from adaptinfer_eval.methods.seen import Attention
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.sweep.cells import Setting
from adaptinfer_eval.sweep.config import MethodEntry, SweepConfig
from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.sweep.identity import Sources, compare
from adaptinfer_eval.sweep.tasks import questions
from adaptinfer_eval.sweep.worker import Worker

SHARE = 0.2
"""Of the text tokens: those with the largest weights are the key ones (AdaptInfer, Figure 2)."""


class Guidance(NamedTuple):
    """What guided a method. `pieces`: the text after the image, token by token. `key[layer]` (T,): its key tokens."""

    answer: str
    pieces: list[str]
    key: dict[int, NDArray[np.bool_]]


def load_worker(config: SweepConfig, tasks: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Worker:
    """A sweep's model with its `tasks`; SweepError where checkpoint or data are not those of `records`."""
    sources = Sources.read(config, tasks, {name: questions(name, task, config.limit) for name, task in tasks.items()})
    for record in records:
        now = {"checkpoint": sources.checkpoint, "data": sources.data[record["task"]]}
        compare(record["id"], record, now)
    return Worker(config, sources)


def guidance(worker: Worker, record: Mapping[str, Any], doc: int) -> Guidance:
    """Answers question `doc` again as the cell of `record` did, and looks at what its method weighs.

    SweepError for a method that is not guided by text tokens.
    """
    names = {entry.title: entry.name for entry in worker.config.methods}
    entry = MethodEntry(name=names.get(record["method"], record["method"]), options=record["options"])
    setting = Setting(entry, record["budget"], record["count"], record["per"])
    seen: list[Tensor | None] = []
    model, request = worker.model, worker.questions[record["task"]][doc]
    model.method = recording(setting.build(), seen)
    set_seed(record["seed"])
    batch = model.load_batch([request])
    (answer,), trace = model.traced_answer(batch, Generation.read(request.generation))
    weights = [row[0].cpu() for row in seen if row is not None]
    if len(weights) < len(trace.kept) or not weights:
        raise _unguided(record["method"])
    tokens = batch.inputs["input_ids"][0, -len(weights[0]) :].tolist()
    key = {layer: key_tokens(row) for layer, row in zip(sorted(trace.kept), weights, strict=True)}
    return Guidance(answer.text, pieces_of(model.tokenizer, tokens), key)


def recording(method: Method, seen: list[Tensor | None]) -> LayerMethod:
    """The same method, which also adds the weights of the text tokens to `seen`, (B, T) for each stage."""
    if not isinstance(method, LayerMethod):
        raise _unguided(method.name)
    watched = copy.copy(method)

    def score(attention: Attention) -> Tensor:
        seen.append(method.text_weights(attention))
        return method.score(attention)

    object.__setattr__(watched, "score", score)  # a method is frozen, and this one is nobody else's
    return watched


def key_tokens(weights: Tensor) -> NDArray[np.bool_]:
    """(T,): the `SHARE` of the tokens with the largest weights, and all that are as large; none of weight 0."""
    count = math.ceil(SHARE * len(weights))
    least = weights.float().topk(count).values[-1]
    key: NDArray[np.bool_] = ((weights >= least) & (weights > 0)).numpy()
    return key


def pieces_of(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """The text of each token: joined, they are the text of all."""
    texts = ["", *(tokenizer.decode(tokens[:end]) for end in range(1, len(tokens) + 1))]
    return [text[len(before) :] for before, text in pairwise(texts)]


def _unguided(method: str) -> SweepError:
    return SweepError(
        f"{method} says of no text token that it guides it: choose methods that do, such as adaptinfer and sparsevlm"
    )
