"""Conversations as text and tokens in the form of Vicuna, as original LLaVA-1.5 writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers

from adaptinfer_eval.backbones.messages import Image, Message, Part

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


def use_original_tokens(tokenizer: Any) -> None:
    """Set a Llama tokenizer, in place, to what LLaVA-1.5 was released with, whatever its `legacy` flag says.

    A mark `▁` is then put before a text and nowhere inside it; where else the original has one, `marked` writes it.
    Tokenizers of other forms stay as they are.
    """
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend and [repr(part) for part in (backend.normalizer, backend.pre_tokenizer)] in _LLAMA_FORMS:
        backend.normalizer, backend.pre_tokenizer = None, _metaspace("first")


def marked(text: str, image_token: str, tokenizer: Any) -> str:
    """`text` with a space wherever the original has a token `▁` that a tokenizer of today leaves out.

    The original tokenizes what stands between images piece by piece, each with the mark of a new text before it, also
    before a space. A tokenizer puts the mark only where it is given the whole, and takes a space there for the mark.
    """
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if not backend or repr(backend.pre_tokenizer) != repr(_metaspace("first")):
        return text
    special = "|".join(map(re.escape, tokenizer.get_added_vocab()))
    return re.sub(rf"^(?= )|(?<={re.escape(image_token)})(?!{special}|\Z)", " ", text)


def _metaspace(prepend_scheme: str) -> pre_tokenizers.Metaspace:
    return pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prepend_scheme, split=False)


_PREPEND = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
_LLAMA_FORMS = [[repr(_PREPEND), "None"], ["None", repr(_metaspace("always"))], ["None", repr(_metaspace("first"))]]
"""Normalizer and pre-tokenizer of Llama tokenizers: older files', and transformers' with `legacy` and without."""


def _flatten(content: Sequence[Part], image_token: str) -> str:
    text = ""
    for index, part in enumerate(content):
        if index:
            text += " " if isinstance(part, Image) and isinstance(content[index - 1], Image) else "\n"
        text += part if isinstance(part, str) else image_token
    return text
