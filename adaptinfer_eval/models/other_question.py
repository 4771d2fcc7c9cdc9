"""Which other question is asked about a request's images, for methods that follow another prompt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from adaptinfer_eval.backbones.messages import Image, Message, Part, Video
from adaptinfer_eval.models.requests import Request, chat_messages


def other_question(request: Request, documents: Sequence[Any]) -> list[Message]:
    """The images of `request` under what the nearest document asks that has another text and another picture.

    Documents before it come first, nearest first, then those after it: so the answer depends neither on the batch nor
    on a limit, and (but for questions about the first picture) only on documents that a limit leaves in. Documents
    about the same picture are passed over: they may be the same question in other words, or with its options in
    another order. A request without images comes back as it is; ValueError where there is no other question.
    """
    own = chat_messages(request, documents[request.doc_id])
    images, text = _images(own), _text(own)
    if not images:
        return own
    for number in chain(reversed(range(request.doc_id)), range(request.doc_id + 1, len(documents))):
        other = chat_messages(request, documents[number])
        if _text(other) != text and _sources(other) != _sources(own):
            return _about(images, other)
    raise ValueError("no document of this task asks something else about another picture: use another task")


def _images(messages: Sequence[Message]) -> list[Image | Video]:
    """Videos, too."""
    return [part for _, content in messages for part in content if not isinstance(part, str)]


def _sources(messages: Sequence[Message]) -> list[Any]:
    return [image.source for image in _images(messages)]


def _text(messages: Sequence[Message]) -> list[str]:
    return [part for _, content in messages for part in content if isinstance(part, str)]


def _about(images: Sequence[Image | Video], messages: Sequence[Message]) -> list[Message]:
    """`messages` with `images` where their own first one stands; where they have none, before the user's first text."""
    images_at = (
        (turn, place)
        for turn, (_, content) in enumerate(messages)
        for place, part in enumerate(content)
        if not isinstance(part, str)
    )
    asked, before = next(images_at, ([role for role, _ in messages].index("user"), 0))
    about: list[Message] = []
    for turn, (role, content) in enumerate(messages):
        parts: list[Part] = [part for part in content if isinstance(part, str)]
        if turn == asked:
            parts[before:before] = images
        about.append((role, parts))
    return about
