"""Questions from many threads, answered in batches: by one model here, or by one in each of several processes.

VLMEvalKit asks one question at a time, but models behind an API from many threads at once: this is such a model.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, Queue
from typing import Any

from adaptinfer_eval.backbones.messages import Message
from adaptinfer_eval.sweep.forks import context_of_workers
from adaptinfer_eval.sweep.memory import keep_memory
from adaptinfer_eval.sweep.pools.processes import visible_gpus
from adaptinfer_eval.sweep.threads import use_threads

PATIENCE = 0.1
"""Seconds to wait for a batch's next question: the threads that ask were all served a moment ago."""


@dataclass(frozen=True)
class Question:
    """What is asked, and lmms-eval's generation arguments."""

    messages: Sequence[Message]
    generation: Mapping[str, Any]


Answer = Callable[[Sequence[Question]], list[str]]


class Local:
    """A model in this process: the wrapper that lmms-eval asks, so the same prompts, images and answers."""

    def __init__(self, model: str, arguments: Mapping[str, Any]) -> None:
        from lmms_eval.models import get_model

        self.model = get_model(model)(**arguments)

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """Answers in order; what is generated alike is answered together."""
        from adaptinfer_eval.models.generation import Generation

        def how(number: int) -> str:
            return json.dumps(questions[number].generation, sort_keys=True, default=str)

        texts: dict[int, str] = {}
        for _, group in groupby(sorted(range(len(questions)), key=how), key=how):
            alike = list(group)
            batch = self.model.encode([self.model.prompt(questions[number].messages) for number in alike])
            answers = self.model.answer(batch, Generation.read(questions[alike[0]].generation))
            texts |= {number: answer.text for number, answer in zip(alike, answers, strict=True)}
        return [texts[number] for number in range(len(questions))]


class Remote:
    """A model in a process of its own, on its share of the GPUs and cores. RuntimeError where that has ended."""

    def __init__(self, model: str, arguments: Mapping[str, Any], index: int, workers: int, gpus: Sequence[str]) -> None:
        context = context_of_workers(gpus)
        self.pipe, theirs = context.Pipe()
        given = (model, dict(arguments), index, workers, gpus, theirs)
        self.process = context.Process(target=_serve, args=given, daemon=True)
        self.process.start()
        theirs.close()

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        try:
            self.pipe.send(questions)
            found = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join(5)
            raise RuntimeError(f"a worker ended with code {self.process.exitcode}") from error
        if isinstance(found, Exception):
            raise found
        texts: list[str] = found
        return texts


def _serve(model: str, arguments: Mapping[str, Any], index: int, workers: int, gpus: Sequence[str], pipe: Any) -> None:
    """One process: questions come in, answers or what went wrong go out."""
    if gpus:  # before CUDA starts
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[index]
    else:
        keep_memory()
    use_threads(workers)
    try:
        answer = Local(model, arguments)
    except Exception as error:  # the first question is told
        pipe.recv()
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
        return
    while True:
        try:
            questions = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(answer(questions))
        except Exception as error:
            pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


def answerers(model: str, arguments: Mapping[str, Any], workers: int) -> list[Answer]:
    """One model here, or `workers` of them. ValueError for more workers than GPUs, where there are any."""
    if workers == 1:
        return [Local(model, arguments)]
    gpus = visible_gpus()
    if gpus and workers > len(gpus):
        raise ValueError(f"workers={workers}: this machine has {len(gpus)} GPUs, and each worker needs one")
    return [Remote(model, arguments, index, workers, gpus) for index in range(workers)]


class Batcher:
    """Batches of up to `size` questions, whoever asks them, each answered by one of `answerers`.

    What goes wrong with a batch is raised to all who asked in it, and to whoever asks from then on.
    """

    def __init__(self, answerers: Sequence[Answer], size: int) -> None:
        self.size = size
        self.waiting: Queue[tuple[Question, Future[str]] | None] = Queue()
        self.failure: Exception | None = None
        self.threads = [threading.Thread(target=self._work, args=(answer,), daemon=True) for answer in answerers]
        for thread in self.threads:
            thread.start()

    def ask(self, question: Question) -> str:
        """Waits for the answer. Safe to call from any thread."""
        future: Future[str] = Future()
        self.waiting.put((question, future))
        return future.result()

    def close(self) -> None:
        """No more questions: the models are let go of."""
        for _ in self.threads:
            self.waiting.put(None)

    def _work(self, answer: Answer) -> None:
        while batch := self._next():
            try:
                if self.failure is not None:
                    raise self.failure
                texts = answer([question for question, _ in batch])
            except Exception as error:
                self.failure = error
                for _, future in batch:
                    future.set_exception(error)
            else:
                for (_, future), text in zip(batch, texts, strict=True):
                    future.set_result(text)

    def _next(self) -> list[tuple[Question, Future[str]]]:
        """Some questions; none once it is closed."""
        batch: list[tuple[Question, Future[str]]] = []
        while len(batch) < self.size:
            try:
                asked = self.waiting.get(timeout=PATIENCE if batch else None)
            except Empty:
                break
            if asked is None:
                break
            batch.append(asked)
        return batch
