"""The tiny checkpoints are what transformers takes for real ones: whole, and alike alone and in a batch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.aya_vision import save as save_aya_vision
from checkpoints.gemma4 import save as save_gemma4
from checkpoints.internvl import save_internvl3_5
from checkpoints.llava_next import save_mistral
from checkpoints.paligemma import save as save_paligemma
from checkpoints.refused import save_gemma3n, save_mllama
from checkpoints.vipllava import save as save_vipllava
from families import FAMILIES
from lmms_tiny import mixed_documents
from PIL import Image, ImageOps
from tiny_models import takes_features
from torch import Tensor
from transformers import PROCESSOR_MAPPING, AutoModelForImageTextToText, AutoProcessor

import adaptinfer_eval as ae
from adaptinfer_eval import backbones
from adaptinfer_eval.backbones.messages import Image as Shown
from adaptinfer_eval.backbones.messages import Message

SAVES: dict[str, Callable[..., Path]] = {
    **{family: row.save for family, row in FAMILIES.items()},
    "llava_next, mistral": save_mistral,
    "internvl, 3.5": save_internvl3_5,
    "paligemma, 1": functools.partial(save_paligemma, decoder="gemma"),
    "aya_vision": save_aya_vision,
    "vipllava": save_vipllava,
    "gemma4, 31B": functools.partial(save_gemma4, kind="31B"),
    "gemma4, E4B": functools.partial(save_gemma4, kind="E4B"),
}
REFUSED: dict[str, tuple[Callable[..., Path], str]] = {
    "mllama": (save_mllama, backbones.REFUSED["mllama"]),
    "gemma3n": (save_gemma3n, backbones.REFUSED["gemma3n"]),
    "gemma4, E4B": (SAVES["gemma4, E4B"], "look at keys of earlier layers"),
}
ALWAYS_IMAGES = ("paligemma", "paligemma, 1")
LAYERS = 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = (SAVES[name] if name in SAVES else REFUSED[name][0])(
                tmp_path_factory.mktemp("checkpoint"), LAYERS
            )
        return made[name]

    return folder


def loaded(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    """The processor, the model in double precision, and what was amiss with its weights."""
    auto: Any = AutoModelForImageTextToText
    model, amiss = auto.from_pretrained(folder, dtype=torch.float64, output_loading_info=True)
    return AutoProcessor.from_pretrained(folder), model.eval(), amiss  # type: ignore[no-untyped-call]


TALK = [("system", "Be brief."), ("user", "Is there a sign?"), ("assistant", "no"), ("user", "Sure?")]
QWEN = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
    "Is there a sign?<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
SAID = {
    "gemma3": "<bos><start_of_turn>user\nBe brief.\n\n<start_of_image>Is there a sign?<end_of_turn>\n"
    "<start_of_turn>model\nno<end_of_turn>\n<start_of_turn>user\nSure?<end_of_turn>\n<start_of_turn>model\n",
    "gemma4": "<bos><|turn>system\nBe brief.<turn|>\n<|turn>user\n<|image|>Is there a sign?<turn|>\n"
    "<|turn>model\nno<turn|>\n<|turn>user\nSure?<turn|>\n<|turn>model\n",
    "glm4v": "[gMASK]<sop><|system|>\nBe brief.<|user|>\n<|begin_of_image|><|image|><|end_of_image|>Is there a sign?"
    "<|assistant|>\nno<|user|>\nSure?<|assistant|>\n",
    "internvl": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<IMG_CONTEXT>\nIs there a sign?<|im_end|>\n"
    "<|im_start|>assistant\nno<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n",
    "llava_next": "Be brief. USER: <image>\nIs there a sign? ASSISTANT: no USER: Sure? ASSISTANT:",
    "llava_next, mistral": "<<SYS>>\nBe brief.\n<</SYS>>\n\n[INST] <image>\nIs there a sign? [/INST] no</s> "
    "[INST] Sure? [/INST]",
    "llava_onevision": "<|im_start|>system \nBe brief.<|im_end|><|im_start|>user <image>\nIs there a sign?<|im_end|>"
    "<|im_start|>assistant \nno<|im_end|><|im_start|>user \nSure?<|im_end|><|im_start|>assistant\n",
    "mistral3": "<s>[SYSTEM_PROMPT]Be brief.[/SYSTEM_PROMPT][INST][IMG]Is there a sign?[/INST]no</s>[INST]Sure?[/INST]",
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), QWEN),
    "qwen3_5": QWEN + "<think>\n",
    "smolvlm": "<|im_start|>System: Be brief.<end_of_utterance>\nUser:<image>Is there a sign?<end_of_utterance>\n"
    "Assistant: no<end_of_utterance>\nUser: Sure?<end_of_utterance>\nAssistant:",
    "vipllava": "Be brief.###User: <image>\nIs there a sign?###Assistant: no###User: Sure?###Assistant:",
}
"""What the templates of published checkpoints write of it, with an image before the first question."""


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


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=takes_features) if name == "vipllava" else name for name in SAVES]
)
def test_a_batch_answers_as_single_prompts(name: str, folders: Callable[[str], Path]) -> None:
    processor, model, _ = loaded(folders(name))
    documents = [each for each in mixed_documents()[:3] if each["images"] or name not in ALWAYS_IMAGES]
    questions, pictures = [each["question"] for each in documents], [each["images"] for each in documents]
    alone = [answers(processor, model, [q], [p]) for q, p in zip(questions, pictures, strict=True)]
    together, logits = answers(processor, model, questions, pictures)
    assert together == [tokens for (tokens,), _ in alone]
    apart = torch.cat([row for _, row in alone]) - logits
    assert apart.abs().max() < 1e-3, "beyond rounding, which is in float32 where layers carry a state"
    assert torch.pdist(logits).min() > 0.1, "answers that hang on no prompt would show nothing"
    others = [[ImageOps.invert(picture) for picture in some] for some in pictures]
    changed = (answers(processor, model, questions, others)[1] - logits).abs().amax(-1)
    assert [bool(some) for some in pictures] == (changed > 0.01).tolist(), changed


@pytest.mark.parametrize("name", SAID)
def test_a_conversation_is_written_as_published_templates_do(name: str, folders: Callable[[str], Path]) -> None:
    processor: Any = AutoProcessor.from_pretrained(folders(name))  # type: ignore[no-untyped-call]
    talk: list[dict[str, Any]] = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in TALK]
    talk[1]["content"].insert(0, {"type": "image"})
    if name == "glm4v":  # whose template takes only what a user says as a list
        talk = [each if each["role"] == "user" else {**each, "content": each["content"][0]["text"]} for each in talk]
    assert processor.apply_chat_template(talk, add_generation_prompt=True) == SAID[name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("llava_next", "USER: <image>\n<image>\nIs   like  ? ASSISTANT:"),
        ("llava_next, mistral", "[INST] <image>\n<image>\nIs  like ? [/INST]"),
        ("llava_onevision", "<|im_start|>user <image><image>\nIs \n like \n?<|im_end|><|im_start|>assistant\n"),
    ],
)
def test_images_come_before_the_text_whatever_is_said(name: str, said: str, folders: Callable[[str], Path]) -> None:
    processor: Any = AutoProcessor.from_pretrained(folders(name))  # type: ignore[no-untyped-call]
    content = [{"type": "text", "text": text} for text in ("Is ", " like ", "?")]
    content[1:1], content[3:3] = [{"type": "image"}], [{"type": "image"}]
    talk = [{"role": "user", "content": content}]
    assert processor.apply_chat_template(talk, add_generation_prompt=True) == said


def test_qwen3_5_thinks_unless_it_is_told_not_to(folders: Callable[[str], Path]) -> None:
    processor: Any = AutoProcessor.from_pretrained(folders("qwen3_5"))  # type: ignore[no-untyped-call]
    talk = [{"role": "user", "content": [{"type": "text", "text": " Sure?\n"}]}]
    begun = "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    assert processor.apply_chat_template(talk, add_generation_prompt=True) == begun
    told = processor.apply_chat_template(talk, add_generation_prompt=True, enable_thinking=False)
    assert told == f"{begun}\n</think>\n\n"


@pytest.mark.parametrize(
    ("name", "choices", "said"),
    [
        ("glm4v", {}, SAID["glm4v"]),  # its template would write a list as Python does
        ("qwen3_5", {}, SAID["qwen3_5"] + "\n</think>\n\n"),  # a task's limit would cut an answer off in thought
        ("qwen3_5", {"thinking": "on"}, SAID["qwen3_5"]),
    ],
)
def test_families_write_what_their_templates_need(
    name: str, choices: dict[str, str], said: str, folders: Callable[[str], Path]
) -> None:
    processor: Any = AutoProcessor.from_pretrained(folders(name))  # type: ignore[no-untyped-call]
    talk: list[Message] = [(role, [text]) for role, text in TALK]
    talk[1][1].insert(0, Shown(None))
    assert backbones.make_family(name, choices).conversation(talk, processor, lambda: "") == said


@pytest.mark.parametrize("name", ALWAYS_IMAGES)
def test_paligemma_reads_no_prompt_without_an_image(name: str, folders: Callable[[str], Path]) -> None:
    """Alone there is an error; in a batch the text is broken up without a word, so that it must not get there."""
    processor, _, _ = loaded(folders(name))
    with pytest.raises(ValueError, match="`images` are expected"):
        processor(text=["Is there a sign?"])
    rows = processor(text=["Is there a sign?", "<image>Is there?"], images=[Image.new("RGB", (9, 9))], padding=True)
    assert "Is the<bos>re a sign?" in processor.tokenizer.decode(rows["input_ids"][0])


@pytest.mark.parametrize("name", REFUSED)
def test_a_checkpoint_that_cannot_be_pruned_is_refused(name: str, folders: Callable[[str], Path]) -> None:
    auto: Any = AutoModelForImageTextToText
    model, amiss = auto.from_pretrained(folders(name), output_loading_info=True)
    assert not any(amiss.values())
    with (
        pytest.raises(ValueError, match=REFUSED[name][1]),
        ae.pruned(model, ae.get_method("fastv")(schedule="1:9")),
    ):
        pass
