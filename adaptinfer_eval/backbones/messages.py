"""A conversation, whatever the family; and as text by the chat template of a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Image:
    """An image of a message: a PIL image, a path or a URL."""

    source: Any


@dataclass(frozen=True)
class Video:
    """A video of a message: its file."""

    source: Any


Part = str | Image | Video
Message = tuple[str, list[Part]]
"""Role ("system", "user" or "assistant") and its text, images and videos in order."""


def question_of(messages: Sequence[Message]) -> str:
    """What the user says last, in words alone."""
    asked = next((content for role, content in reversed(messages) if role == "user"), [])
    return "".join(part for part in asked if isinstance(part, str)).strip()


def checkpoint_template(
    messages: Sequence[Message], processor: Any, strings: Collection[str] = (), **options: Any
) -> str:
    """The chat template that the checkpoint's processor carries.

    `strings`: roles whose words it takes as one string alone. `options`: the template's own.
    """
    conversation = [
        {"role": role, "content": "".join(map(str, content)) if role in strings else list(map(_part, content))}
        for role, content in messages
    ]
    return str(processor.apply_chat_template(conversation, add_generation_prompt=True, **options))


def _part(part: Part) -> dict[str, str]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": type(part).__name__.lower()}
