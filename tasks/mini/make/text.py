"""Prompts exactly as the harness makes them, and a tokenizer whose words are theirs.

Prompt text comes from lmms-eval's own doc_to_text functions with their own default settings; TextVQA has its OCR line.
"""

import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import numpy as np
from lmms_eval.tasks.gqa.utils import gqa_doc_to_text
from lmms_eval.tasks.mmbench.en_utils import mmbench_doc_to_text
from lmms_eval.tasks.mme.utils import mme_doc_to_text
from lmms_eval.tasks.scienceqa.utils import sqa_doc_to_text
from lmms_eval.tasks.textvqa.utils import textvqa_doc_to_text
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlavaImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from adaptinfer_eval.backbones.vicuna import VICUNA_SYSTEM
from tasks.mini.make.questions import FAMILIES, Document
from tasks.mini.make.scene import PATCH, SIDE, draw_scene

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
PROMPTS: dict[str, tuple[Callable[..., str], dict[str, Any]]] = {
    "mme": (mme_doc_to_text, {"pre_prompt": "", "post_prompt": SHORT}),
    "gqa": (gqa_doc_to_text, {"pre_prompt": "", "post_prompt": SHORT}),
    "mmbench": (mmbench_doc_to_text, {"pre_prompt": "", "post_prompt": LETTER}),
    "scienceqa": (sqa_doc_to_text, {"format": "default", "pre_prompt": "", "post_prompt": LETTER}),
    "textvqa": (textvqa_doc_to_text, {"pre_prompt": "", "post_prompt": SHORT, "ocr": True}),
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def question_text(family: str, document: Document) -> str:
    """What follows the image in the prompt."""
    make, settings = PROMPTS[family]
    return f"{make(document, settings)} ASSISTANT:"


def whole_prompt(family: str, document: Document) -> str:
    """The vicuna_v1 conversation with one image."""
    return f"{VICUNA_SYSTEM} USER: <image>\n{question_text(family, document)}"


def _words() -> list[str]:
    """Every word of the world's prompts and answers, sorted; strings on signs stay out and are spelled."""
    rng, texts = np.random.default_rng(0), [VICUNA_SYSTEM, "USER ASSISTANT OCR Yes No A B C D yes no"]
    for _ in range(300):
        scene = draw_scene(rng)
        for family, ask in FAMILIES.items():
            for document in ask(rng, scene):
                blank = document | {"ocr_tokens": []} if family == "textvqa" else document
                texts += [question_text(family, blank), str(document["answer"]) if family == "gqa" else ""]
    found = re.findall(r"(?<![\w'])(?:[A-Za-z]?[a-z']+|[A-D]|USER|ASSISTANT|OCR)(?![\w])", " ".join(texts))
    return sorted(set(found))


@cache
def build_tokenizer() -> PreTrainedTokenizerFast:
    """A few hundred whole words, then single characters, then bytes, so that nothing is unknown."""
    printable = [chr(code) for code in range(33, 127)]
    pieces: list[tuple[str, float]] = [(token, 0.0) for token in SPECIAL]
    pieces += [(f"▁{word}", -1.0) for word in _words()]
    pieces += [(char, -10.0) for char in ["▁", *printable]]
    pieces += [(f"<0x{byte:02X}>", -50.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=SPECIAL.index("<unk>"), byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )


def build_processor() -> LlavaProcessor:
    """Tokenizer and image processor together, as a checkpoint of this family stores them."""
    size = {"height": SIDE, "width": SIDE}
    images = LlavaImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_pad=False
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


@lru_cache(maxsize=10_000)
def tokens(text: str) -> list[int]:
    """Ids of a stretch of text without <s>; cached, since drills are made of few words."""
    return list(build_tokenizer().encode(text, add_special_tokens=False))


def prefix_tokens() -> list[int]:
    """Everything before the image."""
    return [SPECIAL.index("<s>"), *tokens(f"{VICUNA_SYSTEM} USER: ")]
