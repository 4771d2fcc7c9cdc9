"""A real tokenizer, trained in a moment."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "A chat between a curious human and an artificial intelligence assistant. USER: ASSISTANT: helpful, detailed,",
    "Is there a red circle in the picture? yes no Answer the question using a single word or phrase.\n\n",
    "There are several options:\nA. one\nB. two\nC. three\nD. four. What word is on the green sign? 0123456789",
]


def trained(special: list[str], **roles: Any) -> Any:
    """Byte-level, trained on `TEXT`; `roles` say which special token is what."""
    words = Tokenizer(models.BPE(unk_token=None))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words, model_input_names=["input_ids", "attention_mask"], **roles
    )


def llama_words() -> Any:
    """With the special tokens of LLaVA's."""
    return trained(
        ["<unk>", "<s>", "</s>", "<pad>", "<image>"],
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
