"""The tiny checkpoints are what transformers takes for real ones: whole, and alike alone and in a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.gemma4 import save_gemma4, save_gemma4_31b
from checkpoints.internvl import save_internvl3_5
from checkpoints.llava_next import save_mistral
from checkpoints.paligemma import save_paligemma, save_paligemma2
from families import FAMILIES
from lmms_tiny import mixed_documents
from PIL import Image, ImageOps
from torch import Tensor
from transformers import PROCESSOR_MAPPING, AutoModelForImageTextToText, AutoProcessor

SAVES: dict[str, Callable[..., Path]] = {
    **{family: row.save for family, row in FAMILIES.items()},
    "llava_next, mistral": save_mistral,
    "internvl, 3.5": save_internvl3_5,
    "paligemma": save_paligemma,
    "paligemma, 2": save_paligemma2,
    "gemma4": save_gemma4,
    "gemma4, 31B": save_gemma4_31b,
}
ALWAYS_IMAGES = ("paligemma", "paligemma, 2")
LAYERS = 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = SAVES[name](tmp_path_factory.mktemp("checkpoint"), LAYERS)
        return made[name]

    return folder


def loaded(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The processor, the model in double precision, and what was amiss with its weights."""
    auto: Any = AutoModelForImageTextToText
    model, amiss = auto.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    return AutoProcessor.from_pretrained(folder), model.eval(), amiss  # type: ignore[no-untyped-call]


def written(processor: Any, question: str, pictures: Sequence[Image.Image]) -> str:
    if processor.chat_template is None:
        return f"{processor.image_token * len(pictures)}answer en {question}"
    content: list[dict[str, str]] = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": question}]
    text: str = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return text


def answers(
    processor: Any, model: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]
) -> tuple[list[list[int]], Tensor]:
    """Four tokens to a prompt, and the logits (prompts, words) of the first; images are a list for each prompt."""
    texts = [written(processor, *prompt) for prompt in zip(questions, pictures, strict=True)]
    images = {"images": [list(some) for some in pictures]} if any(pictures) else {}
    inputs = processor(text=texts, **images, padding=True, padding_side="left", return_tensors="pt").to(model.dtype)
    inputs.pop("labels", None)  # PaliGemma's, of training
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    given = model.generate(**inputs, **options, output_logits=True, return_dict_in_generate=True)
    return given.sequences[:, inputs["input_ids"].shape[1] :].tolist(), given.logits[0]


@pytest.mark.parametrize("name", SAVES)
def test_a_checkpoint_loads_whole(name: str, folders: Callable[[str], Path]) -> None:
    processor, model, amiss = loaded(folders(name))
    assert not any(amiss.values())
    assert model.config.model_type == name.split(",")[0]
    meant: Any = PROCESSOR_MAPPING[type(model.config)]
    assert type(processor) is meant
    assert len(model.get_decoder().layers) == LAYERS
    assert None not in (model.generation_config.eos_token_id, model.generation_config.pad_token_id)


@pytest.mark.parametrize("name", SAVES)
def test_a_batch_answers_as_single_prompts(name: str, folders: Callable[[str], Path]) -> None:
    processor, model, _ = loaded(folders(name))
    documents = [each for each in mixed_documents()[:3] if each["images"] or name not in ALWAYS_IMAGES]
    questions, pictures = [each["question"] for each in documents], [each["images"] for each in documents]
    alone = [answers(processor, model, [q], [p])[0][0] for q, p in zip(questions, pictures, strict=True)]
    together, logits = answers(processor, model, questions, pictures)
    assert together == alone
    assert len({tuple(tokens) for tokens in alone}) == len(alone), "an answer that hangs on no prompt shows nothing"
    others = [[ImageOps.invert(picture) for picture in some] for some in pictures]
    changed = (answers(processor, model, questions, others)[1] - logits).abs().amax(-1)
    assert [bool(some) for some in pictures] == (changed > 0.01).tolist(), changed


@pytest.mark.parametrize("name", ALWAYS_IMAGES)
def test_paligemma_reads_no_prompt_without_an_image(name: str, folders: Callable[[str], Path]) -> None:
    """The reason why it is refused: alone there is an error, in a batch the text is broken up without a word."""
    processor, _, _ = loaded(folders(name))
    with pytest.raises(ValueError, match="`images` are expected"):
        processor(text=["Is there a sign?"])
    rows = processor(text=["Is there a sign?", "<image>Is there?"], images=[Image.new("RGB", (9, 9))], padding=True)
    assert "Is the<bos>re a sign?" in processor.tokenizer.decode(rows["input_ids"][0])
