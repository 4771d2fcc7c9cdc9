"""A conversation, whatever the family; and as text by the chat template of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Image:
    """An image of a message: a PIL image, a path or a URL."""

    source: Any


Message = tuple[str, list[str | Image]]
"""Role ("system", "user" or "assistant") and its text and images in order."""


def checkpoint_template(messages: Sequence[Message], processor: Any) -> str:
    """The chat template that the checkpoint's processor carries."""
    conversation = [
        {
            "role": role,
            "content": [
                {"type": "image"} if isinstance(part, Image) else {"type": "text", "text": part} for part in content
            ],
        }
        for role, content in messages
    ]
    return str(processor.apply_chat_template(conversation, add_generation_prompt=True))
