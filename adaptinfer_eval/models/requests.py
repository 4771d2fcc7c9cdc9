"""Requests of lmms-eval in one form, whatever the kind of model they were made for.

Knows lmms-eval's tuples; knows nothing of prompts, tensors or models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from adaptinfer_eval.backbones.messages import Image, Message, Part, Video
from adaptinfer_eval.models.videos import is_video

T = TypeVar("T")
R = TypeVar("R")


IMAGE_MARK = "<image>"
"""Where lmms-eval's tasks put an image into a text, whatever the model's own token is."""


class RequestError(RuntimeError):
    """A request could not be answered; names it. The cause is chained."""


@dataclass(frozen=True)
class Request:
    """One request: where it stands in the caller's list, what is asked, and how to answer.

    `context` is the task's text without images, used for sorting by length and by simple models. `continuation` is
    the text to score, for log-likelihoods only. `padding`: asked only to keep processes in step, counts for nothing.
    """

    position: int
    context: str
    arguments: tuple[Any, ...]
    task: str
    doc_id: Any
    split: str | None
    generation: Mapping[str, Any]
    continuation: Any = None
    padding: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.context, str):
            raise RequestError(f"{self} asks {self.context!r}, which is no text: mend the data, or leave the task out")

    def __str__(self) -> str:
        return f"task {self.task}, doc_id {self.doc_id}"

    def check(self, document: Any) -> None:
        """ValueError for a document without a question, of which a task makes a text all the same ("None ...")."""
        if isinstance(document, Mapping) and document.get("question", "") is None:
            raise ValueError("the document's question is None: mend the data, or leave the task out")


def generation_requests(instances: Sequence[Any], is_simple: bool) -> list[Request]:
    """lmms-eval's `generate_until` instances; chat and simple models get their arguments in different orders."""
    requests = []
    for position, instance in enumerate(instances):
        if is_simple:
            context, generation, source, doc_id, task, split = instance.args
        else:
            context, source, generation, doc_id, task, split = instance.args
        requests.append(
            Request(position, context, (source,), task, doc_id, split, dict(generation), padding=_is_padding(instance))
        )
    return requests


def scoring_requests(instances: Sequence[Any]) -> list[Request]:
    """lmms-eval's `loglikelihood` instances: `(context, continuation, doc_to_visual, doc_id, task, split)`.

    Without a document, `(context, continuation)`: mutual information asks for the score of an option by itself.
    """
    requests = []
    for position, instance in enumerate(instances):
        context, continuation, *document = instance.args
        source, doc_id, task, split = document or (None, instance.doc_id, instance.task_name, None)
        requests.append(
            Request(position, context, (source,), task, doc_id, split, {}, continuation, padding=_is_padding(instance))
        )
    return requests


def _is_padding(instance: Any) -> bool:
    return bool((instance.metadata or {}).get("__padding_only__"))


def simple_messages(request: Request, document: Mapping[str, Any] | None) -> list[Message]:
    """One user message: the images, then the text; or in the places that the text itself marks with `IMAGE_MARK`."""
    (doc_to_visual,) = request.arguments
    with _exits_are_errors():
        images = [shown(visual) for visual in (doc_to_visual(document) if doc_to_visual else None) or []]
    parts = request.context.split(IMAGE_MARK)
    if len(parts) == 1:
        return [("user", [*images, request.context])]
    if len(parts) != len(images) + 1:
        raise ValueError(f"the text marks {len(parts) - 1} images with {IMAGE_MARK}, the document has {len(images)}")
    content: list[Part] = [parts[0]]
    for image, text in zip(images, parts[1:], strict=True):
        content += [image, text]
    return [("user", [part for part in content if part != ""])]


@contextmanager
def _exits_are_errors() -> Iterator[None]:
    """A task of lmms-eval that misses a video's file ends the process; here it is the document that cannot be asked."""
    try:
        yield
    except SystemExit as error:
        raise ValueError(f"its task gives up: {error}") from error


def shown(source: Any) -> Image | Video:
    """What a task shows, an image or the file of a video, whatever it calls it."""
    return Video(source) if is_video(source) else Image(source)


def chat_messages(request: Request, document: Mapping[str, Any]) -> list[Message]:
    """The messages that the task itself makes of the document."""
    from lmms_eval.protocol import ChatMessages

    (doc_to_messages,) = request.arguments
    messages: list[Message] = []
    with _exits_are_errors():
        told = doc_to_messages(document)
    for message in ChatMessages(messages=told).messages:
        content: list[Part] = []
        for part in message.content:
            if part.type == "text":
                content.append(part.text)
            elif part.type == "image":
                content.append(Image(part.url))
            elif part.type == "video":
                if part.start_time is not None or part.end_time is not None:
                    raise ValueError(
                        f"the document shows {part.url} from {part.start_time} to {part.end_time} s, and models are "
                        "shown whole videos: cut it, or use another task"
                    )
                content.append(Video(part.url))
            else:
                raise ValueError(f"models take text, images and videos, the document has {part.type}: use another task")
        messages.append((message.role, content))
    return messages


def batches(
    requests: Iterable[Request], size: int, tokenizer: Any, picture: Callable[[Request], Hashable]
) -> Iterator[list[Request]]:
    """Requests that are answered alike; those about one `picture` together, longest first.

    So there is little to compute twice and little padding, and a batch that is too large fails early. Length is in
    tokens: prompts of equal length need no padding mask, with which attention skips nothing.
    """
    alike: dict[str, list[Request]] = {}
    for request in requests:
        alike.setdefault(json.dumps(request.generation, sort_keys=True, default=str), []).append(request)
    for group in alike.values():
        tokens = tokenizer([request.context for request in group])["input_ids"]
        by_length = sorted(range(len(group)), key=lambda index: -len(tokens[index]))
        by_picture: dict[Hashable, list[Request]] = {}
        for index in by_length:
            about = picture(group[index]) if size > 1 else index
            by_picture.setdefault(about, []).append(group[index])
        order = [request for about_one in by_picture.values() for request in about_one]
        yield from (order[start : start + size] for start in range(0, len(order), size))


def one_ahead(load: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`load(item)` for every item, in order; a thread works on the next one while the caller works on this one."""
    with ThreadPoolExecutor(1) as thread:
        waiting: Future[R] | None = None
        for item in items:
            following = thread.submit(load, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()
