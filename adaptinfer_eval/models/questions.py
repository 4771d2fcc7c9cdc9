"""What the user says beside an image, for methods that read the question."""

from __future__ import annotations

from collections.abc import Sequence

from adaptinfer_eval.backbones.messages import Message


def asked(messages: Sequence[Message]) -> str:
    """The text of the last turn of the user that shows something, without what it shows; else of the last of all."""
    turns = [content for role, content in messages if role == "user"]
    showing = [content for content in turns if any(not isinstance(part, str) for part in content)]
    told = (showing or turns or [[]])[-1]
    return "".join(part for part in told if isinstance(part, str)).strip()
