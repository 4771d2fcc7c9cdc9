"""A conversation, whatever the family; and as text by the chat template of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
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


def checkpoint_template(messages: Sequence[Message], processor: Any) -> str:
    """The chat template that the checkpoint's processor carries."""
    conversation = [
        {
            "role": role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": type(part).__name__.lower()}
                for part in content
            ],
        }
        for role, content in messages
    ]
    return str(processor.apply_chat_template(conversation, add_generation_prompt=True))
