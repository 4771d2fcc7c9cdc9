"""A conversation, whatever the family: roles, and their texts and images in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Image:
    """An image of a message: a PIL image, a path or a URL."""

    source: Any


Message = tuple[str, list[str | Image]]
"""Role ("system", "user" or "assistant") and its text and images in order."""
