"""What mini_video shows and asks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CLIPS = Path(__file__).parent / "data" / "clips"


def doc_to_visual(document: Mapping[str, Any]) -> list[str]:
    return [str(CLIPS / document["clip"])]


def doc_to_text(document: Mapping[str, Any], _options: Any = None) -> str:
    return f"{document['question']}\nAnswer the question using a single word or phrase."


def doc_to_messages(document: Mapping[str, Any], _options: Any = None) -> list[dict[str, Any]]:
    shown = [{"type": "video", "url": path} for path in doc_to_visual(document)]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": doc_to_text(document)}]}]
