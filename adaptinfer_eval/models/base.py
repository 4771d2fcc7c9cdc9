"""Pruned vision-language models for lmms-eval: requests in, answers out, in order.

A backbone family says how its processor is loaded and how a conversation is written; a method says how to prune.
Neither knows the other: `wrappers` crosses them.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from tqdm import tqdm  # type: ignore[import-untyped]

import adaptinfer_eval as ae
from adaptinfer_eval.backbones import make_family
from adaptinfer_eval.backbones.family import Family
from adaptinfer_eval.backbones.options import whole
from adaptinfer_eval.methods.by_file import fingerprint
from adaptinfer_eval.methods.following import FollowingMethod
from adaptinfer_eval.models.answering import Answering
from adaptinfer_eval.models.batch import Batch, Prompt
from adaptinfer_eval.models.checkpoint import check_checkpoint
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.groups import check_groups
from adaptinfer_eval.models.loading import load_model
from adaptinfer_eval.models.options import make_method, pick_device, pick_dtype, plain
from adaptinfer_eval.models.other_question import other_question
from adaptinfer_eval.models.pictures import all_of_pictures, stored_pictures
from adaptinfer_eval.models.requests import (
    Request,
    RequestError,
    batches,
    chat_messages,
    generation_requests,
    one_ahead,
    scoring_requests,
    simple_messages,
)
from adaptinfer_eval.models.tally import Tally


class PrunedModel(Answering, lmms):  # type: ignore[misc]
    """An lmms-eval model that answers every request inside `ae.pruned(model, method)`.

    Model arguments: `pretrained`, `revision`, `dtype` ("auto": the checkpoint's), `attn_implementation`, `device_map`
    ("auto" spreads one model over all devices), `device`, `batch_size`, `max_batch_size`, what the family adds, and
    every option of the method, a `/` where it has a comma (`schedule=1:133/10:27/20:3`). Others are a ValueError.
    `method`: another method than the model's name says, by name or by file, `method=path/to/mine.py:Mine`.
    """

    method_name: ClassVar[str]
    family_type: ClassVar[type[Family]]

    def __init__(
        self,
        pretrained: str | None = None,
        revision: str = "main",
        dtype: str = "auto",
        attn_implementation: str | None = None,
        device_map: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
        method: str | None = None,
        **options: Any,
    ) -> None:
        lmms.__init__(self)
        choices = {name: plain(value) for name, value in options.items() if name in self._choices()}
        family = make_family(self.family_type.model_type, choices)
        method_options = {name: value for name, value in options.items() if name not in choices}
        chosen = ae.get_method(plain(method) or self.method_name)
        made = make_method(chosen, method_options, self._own_arguments())
        most = batch_size if plain(max_batch_size) is None else max_batch_size
        self.batch_size = min(whole("batch_size", plain(batch_size)), whole("max_batch_size", plain(most)))
        self._rank, self._world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        device_map = plain(device_map)
        if device_map and self._world_size > 1:
            raise ValueError(
                f"device_map={device_map} spreads one model over the devices that {self._world_size} processes share: "
                "start one process, or leave device_map out"
            )
        asked = family.pretrained if pretrained is None else plain(pretrained)
        self.checkpoint = {"pretrained": str(asked or ""), "revision": str(plain(revision) or "main")}
        check_checkpoint(self.checkpoint["pretrained"], self.checkpoint["revision"], family.model_type)
        model = load_model(
            **self.checkpoint,
            dtype=pick_dtype(plain(dtype)),
            attn_implementation=plain(attn_implementation),
            device_map=device_map or {"": pick_device(plain(device))},
        )
        Answering.__init__(self, made, family, model, family.load_processor(**self.checkpoint, config=model.config))
        self._finished = Tally()
        with ae.pruned(self.model, self.method):
            pass  # a method that does not fit the model fails here, before any data is loaded

    # What lmms-eval asks for -------------------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests, cut at the first stop string."""
        asked = generation_requests(requests, self.is_simple)
        check_groups(asked, self.world_size)
        self.warn_of_ignored(asked)
        return self._run(asked, self._answer)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Per request, the sum of the continuation's log-probabilities (natural log), and whether it is greedy."""
        return self._run(scoring_requests(requests), lambda _, batch: self.score(batch))

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError(
            f"task {requests[0].task_name} asks in several rounds and {type(self).__name__} answers single questions: "
            "choose tasks with output_type generate_until"
        )

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the model, of its first part if it is spread."""
        return self.model.device  # type: ignore[no-any-return]

    def clean(self) -> None:
        """The end of a run, on every process: report what it cost. The model stays loaded for the next run."""
        parts: list[Any] = [self.tally]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, self.tally)
        self.tally, self._finished = Tally(), sum(parts, Tally())
        if self.rank == 0 and self._finished.requests:
            # lmms-eval logs this line, and puts its numbers (named avg_…) under "throughput" in its results.
            run, audit = self._finished, self._finished.audit()
            audit["total_requests"] = audit.pop("requests")
            line = {"method": self.method, **audit, **run.stages()}
            speed = run.generated_tokens / run.seconds if run.seconds else 0.0
            log_metrics(run.seconds, run.generated_tokens, speed, additional_metrics=line)

    def audit(self) -> dict[str, Any]:
        """What the last finished run cost (before one has finished: the run so far), see `Tally.audit`."""
        return (self._finished if self._finished.requests else self.tally).audit()

    def __repr__(self) -> str:
        """All that answers depend on: lmms-eval's response cache finds them by it."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        attention = self.model.config._attn_implementation
        choices = {"method": self.method, **self.checkpoint, "dtype": dtype, "attn": attention}
        if code := fingerprint(type(self.method)):
            choices["code"] = code
        choices |= dataclasses.asdict(self.family)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in choices.items())})"

    # How ---------------------------------------------------------------------------------------------------------

    def _run(self, asked: Sequence[Request], answer: Callable[[Sequence[Request], Batch], Sequence[Any]]) -> list[Any]:
        results: list[Any] = [None] * len(asked)
        with tqdm(total=len(asked), disable=self.rank != 0, desc="Model Responding") as progress:
            cut = batches(asked, self.batch_size, self.tokenizer, stored_pictures(self.task_dict))
            for requests, batch in one_ahead(self.load, cut):
                with self.naming(requests):
                    answers = answer(requests, batch)
                for request, result in zip(requests, answers, strict=True):
                    results[request.position] = result
                progress.update(len(requests))
        return results

    def _answer(self, requests: Sequence[Request], batch: Batch) -> list[GenerationResult]:
        answers = self.answer(batch, Generation.read(requests[0].generation))
        costs = [a.cost for a in answers]
        counts = [TokenCounts(c.vision_tokens + c.text_tokens, c.generated_tokens) for c in costs]
        return [GenerationResult(a.text, count) for a, count in zip(answers, counts, strict=True)]

    def load(self, requests: Sequence[Request]) -> tuple[Sequence[Request], Batch]:
        """The requests, and what the method needs to answer them. May run in a thread beside the one that answers."""
        batch = self.load_batch(requests)
        return requests, self.with_others(requests, batch) if isinstance(self.method, FollowingMethod) else batch

    def load_batch(self, requests: Sequence[Request]) -> Batch:
        """The model's inputs for the requests, for any method but those that follow another prompt."""
        prompts = [self._prompt(request) for request in requests]
        with self.naming(requests):
            return self.encode(prompts)

    def with_others(self, requests: Sequence[Request], batch: Batch) -> Batch:
        """`batch` with other questions about the same images."""
        others = [self._other_prompt(request) for request in requests]
        with self.naming(requests):
            return dataclasses.replace(batch, other=self.encode(others))

    def _prompt(self, request: Request) -> Prompt:
        with self.naming([request]), all_of_pictures():
            task, text = request.task, request.continuation
            document: Any = None if request.split is None else self.task_dict[task][request.split][request.doc_id]
            request.check(document)
            if self.is_simple or text is not None:  # lmms-eval asks for scores in the form of simple models only
                messages = simple_messages(request, document)
            else:
                messages = chat_messages(request, document)
            continuation = text(document) if callable(text) else text or ""
            return self.prompt(messages, continuation, counted=not request.padding)

    def _other_prompt(self, request: Request) -> Prompt:
        with self.naming([request]), all_of_pictures():
            if self.is_simple or request.continuation is not None:
                raise ValueError(
                    "what else a task asks is known of chat models and generated answers only: "
                    "leave out --force_simple, and choose tasks with output_type generate_until"
                )
            return self.prompt(other_question(request, self.task_dict[request.task][request.split]))

    def warn_of_ignored(self, requests: Iterable[Request]) -> None:
        """Log the generation options of some requests that are passed over, and those that cost time, once."""
        ignored, slow = set[str](), set[str]()
        for request in requests:
            with self.naming([request]):
                generation = Generation.read(request.generation)
            ignored.update(generation.ignored)
            slow.update(self.sees_prompt(generation))
        if ignored:
            logger.warning(f"generation options that change nothing here, ignored: {sorted(ignored)}")
        if slow and self.batch_size > 1:
            logger.warning(f"{sorted(slow)} may look at a prompt's tokens: prompts of unequal length go one by one")

    @contextmanager
    def naming(self, batch: Sequence[Request]) -> Iterator[None]:
        """Exceptions name the requests that were being answered."""
        try:
            yield
        except RequestError:
            raise
        except Exception as error:
            asked = "; ".join(map(str, batch))
            failed = RequestError(f"{type(self).__name__} could not answer {asked}: {type(error).__name__}: {error}")
            if self.world_size == 1:
                raise failed from error
            # lmms-eval would catch it and exit with code 0, and the other processes would wait for this one for ever.
            logger.opt(exception=error).error(str(failed))
            raise SystemExit(1) from error

    @classmethod
    def _own_arguments(cls) -> set[str]:
        """Names of the model arguments that are not the method's."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        return cls._choices() | {p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD}

    @classmethod
    def _choices(cls) -> set[str]:
        """Names of the model arguments that are the family's."""
        return {field.name for field in dataclasses.fields(cls.family_type)}
