"""What cannot be asked is refused by name; what a checkpoint leaves out is filled in from what it does say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints.internvl import save_internvl
from lmms_tiny import load_wrapper, save_tiny_llava
from PIL import Image as Picture
from test_generation_options import edited
from test_lmms_models import ask, questions

from adaptinfer_eval.models.requests import RequestError
from adaptinfer_eval.sweep.config import SweepError, load_config
from adaptinfer_eval.sweep.tasks import load_tasks
from adaptinfer_eval.sweep.tasks import questions as sweep_questions

DOCUMENT: dict[str, Any] = {"images": [Picture.new("RGB", (24, 24), "red")], "question": "Is there a red circle?"}
LONG: dict[str, Any] = {"images": DOCUMENT["images"] * 3, "question": DOCUMENT["question"]}


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("llava"))


def prompt_length(model: Any, document: dict[str, Any]) -> int:
    model.task_dict = {"quiz": {"test": [document]}}
    return int(model.generate_until(questions([document]))[0].token_counts.input_tokens)


@pytest.mark.parametrize("by", ["the model", "the tokenizer"])
def test_a_prompt_longer_than_the_model_takes(llava: Path, by: str) -> None:
    model = load_wrapper(llava, "llava")
    limit, length = prompt_length(model, DOCUMENT), prompt_length(model, LONG)
    if by == "the model":
        model.model.config.text_config.max_position_embeddings = limit
    else:
        model.tokenizer.model_max_length = limit
    assert ask(model, [DOCUMENT])
    with pytest.raises(
        RequestError, match=rf"doc_id 1: .*prompt 2 of 2 has {length} tokens and the model takes {limit}:"
    ):
        ask(model, [DOCUMENT, LONG])


def test_positions_that_are_stretched(llava: Path) -> None:
    model = load_wrapper(llava, "llava")
    text = model.model.config.text_config
    text.max_position_embeddings = prompt_length(model, DOCUMENT)
    text.rope_parameters = {**text.rope_parameters, "rope_type": "linear", "factor": 4.0}
    assert ask(model, [LONG])
    text.rope_parameters["original_max_position_embeddings"] = 20
    with pytest.raises(RequestError, match="tokens and the model takes"):
        ask(model, [LONG])


@pytest.mark.parametrize("simple", [False, True], ids=["chat", "simple"])
def test_a_question_that_is_none(llava: Path, simple: bool) -> None:
    """Whether the task hands it on or has made a text of it."""
    model = load_wrapper(llava, "llava", simple=simple)
    found: list[dict[str, Any]] = [DOCUMENT, {**DOCUMENT, "question": None}]
    model.task_dict = {"quiz": {"test": found}}
    asked = questions([DOCUMENT, {"question": "None\nAnswer with a word."}])
    if simple:
        for request in asked:
            text, _, *rest = request.args
            request.arguments = (text, rest[0], lambda document: document["images"], *rest[1:])
    with pytest.raises(RequestError, match="doc_id 1: ValueError: the document's question is None: mend the data"):
        model.generate_until(asked)
    asked[1].arguments = (None, *asked[1].args[1:])
    with pytest.raises(RequestError, match="task quiz, doc_id 1 asks None, which is no text"):
        model.generate_until(asked)


def test_a_sweep_finds_such_questions_and_options_at_its_start() -> None:
    name = "mini_gqa"
    _, tasks = load_tasks(load_config("mini", [f"tasks={name}"]))
    task = tasks[name]
    assert list(sweep_questions(name, task, 3)) == [0, 1, 2]
    task.config.generation_kwargs["until"] = [""]
    with pytest.raises(SweepError, match=rf"tasks: {name}: until=\[''\]: a stop is a text of at least one character"):
        sweep_questions(name, task, 3)
    del task.config.generation_kwargs["until"]
    for split, found in task.dataset_no_image.items():
        asked = [None if number == 1 else question for number, question in enumerate(found["question"])]
        task.dataset_no_image[split] = found.remove_columns("question").add_column("question", asked)
    assert list(sweep_questions(name, task, 1)) == [0]
    with pytest.raises(SweepError, match=f"tasks: the question of {name}'s document 1 is None: mend its data"):
        sweep_questions(name, task, 3)


@pytest.mark.parametrize(
    "gone",
    [
        ["patch_size"],
        ["num_additional_image_tokens"],
        ["vision_feature_select_strategy"],
        ["patch_size", "num_additional_image_tokens", "vision_feature_select_strategy"],
    ],
    ids=str,
)
def test_what_a_processor_does_not_say_the_model_does(llava: Path, tmp_path: Path, gone: list[str]) -> None:
    lacking = save_tiny_llava(tmp_path)
    assert all(key in json.loads((lacking / "processor_config.json").read_text()) for key in gone)
    edited(lacking, "processor_config.json", {}, *gone)
    assert ask(load_wrapper(lacking, "llava"), [DOCUMENT, LONG]) == ask(load_wrapper(llava, "llava"), [DOCUMENT, LONG])


def test_what_internvls_processor_does_not_say(tmp_path: Path) -> None:
    whole, lacking = (save_internvl(tmp_path / name) for name in ("whole", "lacking"))
    edited(lacking, "processor_config.json", {}, "image_seq_length")
    models = [load_wrapper(folder, "internvl", arguments=",max_patches=2") for folder in (whole, lacking)]
    assert ask(models[0], [DOCUMENT, LONG]) == ask(models[1], [DOCUMENT, LONG])
