"""A Llama tokenizer out of the original's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from transformers import LlamaTokenizer
from transformers.tokenization_utils_base import generate_merges

from adaptinfer_eval.sweep.errors import SweepError


def llama_tokenizer(path: Path) -> Any:
    """Of the `tokenizer.model` of a Llama or Vicuna; padding is its unknown token. SweepError where it is none.

    Read by SentencePiece itself: transformers needs a release of protobuf besides that not every SentencePiece has.
    """
    if not path.is_file():
        raise SweepError(f"{path.parent} has no {path.name}: download the checkpoint again")
    try:
        model = SentencePieceProcessor(str(path))
    except (OSError, RuntimeError) as error:
        raise SweepError(f"{path} cannot be read ({' '.join(str(error).split()):.200}): download it again") from error
    pieces = [model.id_to_piece(number) for number in range(model.vocab_size())]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    scores = {piece: model.get_score(number) for number, piece in enumerate(pieces)}
    unknown, begin, end = (pieces[number] for number in (model.unk_id(), model.bos_id(), model.eos_id()))
    roles = {"unk_token": unknown, "bos_token": begin, "eos_token": end, "pad_token": unknown, "add_bos_token": True}
    return LlamaTokenizer(vocab=vocabulary, merges=generate_merges(vocabulary, scores), **roles)
