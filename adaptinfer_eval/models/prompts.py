"""Conversations as text: original LLaVA-1.5's form, or the checkpoint's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adaptinfer_eval.models.requests import Image, Message

VICUNA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)


def vicuna_v1(messages: Sequence[Message], image_token: str, end: str) -> str:
    """`<system> USER: <image>\\n<text> ASSISTANT:`, as LLaVA-1.5 was trained and as the papers evaluate it.

    Several images side by side are set apart by a space, text and images by a line break. `end` closes an earlier
    answer. A system message takes the place of the standard one.
    """
    system, turns = VICUNA_SYSTEM, list(messages)
    if turns and turns[0][0] == "system":
        system = _flatten(turns.pop(0)[1], image_token)
    text = f"{system} "
    for role, content in turns:
        if role == "user":
            text += f"USER: {_flatten(content, image_token)} "
        elif role == "assistant":
            text += f"ASSISTANT: {_flatten(content, image_token)}{end}"
        else:
            raise ValueError(f"a {role} message can only come first: use conv=hf")
    return text + "ASSISTANT:"


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


def _flatten(content: Sequence[str | Image], image_token: str) -> str:
    text = ""
    for index, part in enumerate(content):
        if index:
            text += " " if isinstance(part, Image) and isinstance(content[index - 1], Image) else "\n"
        text += image_token if isinstance(part, Image) else part
    return text
