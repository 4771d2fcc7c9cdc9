"""The control `other_question` keeps what AdaptInfer keeps for another question about the same image, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lmms_tiny import load_wrapper, save_tiny_llava
from PIL import Image as Picture
from test_lmms_models import ask, questions, to_messages
from tiny_models import llava, prompt

import adaptinfer_eval as ae
from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.kept import kept_tokens
from adaptinfer_eval.models.other_question import other_question
from adaptinfer_eval.models.requests import RequestError, generation_requests

SCHEDULE = ",schedule=0:20/1:10/2:5"
Document = dict[str, Any]


def picture(seed: int) -> Picture.Image:
    generator = torch.Generator().manual_seed(seed)
    return Picture.fromarray(torch.randint(0, 256, (24, 24, 3), generator=generator, dtype=torch.uint8).numpy())


def document(seed: int, question: str, images: int = 1) -> Document:
    return {"images": [picture(seed + number) for number in range(images)], "question": question}


DOCUMENTS = [
    document(1, "Is there a red circle in the picture?"),
    document(1, "What word is on the green sign?"),
    document(2, "There are several options: A. one"),
    document(3, "There are several options: A. one"),
    document(0, "Answer the question.", images=0),
    document(4, "Is there a word?", images=2),
]


def asked_about(number: int, documents: list[Document] = DOCUMENTS) -> tuple[list[Any], str]:
    """Images and text of the other question for a document."""
    request = generation_requests(questions(documents), is_simple=False)[number]
    ((role, content),) = other_question(request, documents)
    assert role == "user"
    *images, text = content
    return [image.source for image in images if isinstance(image, Image)], str(text)


def test_the_other_question_is_the_nearest_about_another_picture() -> None:
    texts = [str(entry["question"]) for entry in DOCUMENTS]
    found = [asked_about(number) for number in range(len(DOCUMENTS))]
    # 0, 1: none before with another picture; 3: that before asks the same; 4: no image, nothing to choose.
    assert [text for _, text in found] == [texts[number] for number in (2, 2, 1, 1, 4, 4)]
    assert [images for images, _ in found] == [entry["images"] for entry in DOCUMENTS]


@pytest.mark.parametrize("limit", [3, 4, 5])
def test_the_other_question_does_not_depend_on_a_limit(limit: int) -> None:
    for number in range(limit):
        assert asked_about(number, DOCUMENTS[:limit])[1] == asked_about(number)[1]


def test_images_stand_where_the_other_question_has_its_own() -> None:
    def to_turns(entry: Document) -> list[dict[str, Any]]:
        images = [{"type": "image", "url": image} for image in entry["images"]]
        before = {"type": "text", "text": "Look:"}
        content = [before, *images, {"type": "text", "text": entry["question"]}]
        return [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": content},
        ]

    documents = [document(1, "one", images=2), document(3, "two"), document(5, "three", images=0), document(6, "four")]
    requests = generation_requests(questions(documents, to_turns), is_simple=False)
    system, (_, content) = other_question(requests[1], documents)
    assert system == ("system", ["Be brief."])
    assert content == ["Look:", Image(documents[1]["images"][0]), "one"]
    _, (_, content) = other_question(requests[3], documents)
    assert content == [Image(documents[3]["images"][0]), "Look:", "three"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"))


def kept_by(model: Any, batch: Any) -> list[dict[str, Any]]:
    trace = model.traced_answer(batch, Generation.read({"max_new_tokens": 3}))[1]
    is_vision = batch.inputs["input_ids"] == model.processor.image_token_id
    return kept_tokens(trace, is_vision, [len(prompt.images) for prompt in batch.prompts])


@pytest.mark.parametrize("options", [SCHEDULE, f"{SCHEDULE},variant=paper"])
def test_keeps_what_adaptinfer_keeps_for_the_other_question(checkpoint: Path, options: str) -> None:
    control, adaptinfer = (
        load_wrapper(checkpoint, "llava", name, options) for name in ("other_question", "adaptinfer")
    )
    control.task_dict = {"quiz": {"test": DOCUMENTS}}
    requests = generation_requests(questions(DOCUMENTS), is_simple=False)
    kept = kept_by(control, control.load(requests)[1])
    others = []
    for number in range(len(DOCUMENTS)):
        images, text = asked_about(number)
        (alone,) = kept_by(adaptinfer, adaptinfer.encode([adaptinfer.prompt([("user", [*map(Image, images), text])])]))
        others.append(alone)
    assert kept == others
    own = kept_by(adaptinfer, control.load_batch(requests))
    differ = [mine != theirs for mine, theirs in zip(own, kept, strict=True)]
    assert differ == [bool(entry["images"]) for entry in DOCUMENTS]


def test_the_second_pass_alone_is_counted(checkpoint: Path) -> None:
    control, adaptinfer = (
        load_wrapper(checkpoint, "llava", name, SCHEDULE) for name in ("other_question", "adaptinfer")
    )
    answers, others = (ask(model, DOCUMENTS, max_new_tokens=4) for model in (control, adaptinfer))
    assert answers != others
    counted, expected = control.audit(), adaptinfer.audit()
    assert {**counted, "generated_tokens": 0} == pytest.approx({**expected, "generated_tokens": 0})


def test_the_model_is_unchanged_afterwards(checkpoint: Path) -> None:
    control = load_wrapper(checkpoint, "llava", "other_question", SCHEDULE)
    inputs = control.encode([control.prompt([("user", [Image(picture(1)), "Is there a word?"])])]).inputs
    with torch.no_grad():
        before = control.model(**inputs).logits
        ask(control, DOCUMENTS)
        assert torch.equal(control.model(**inputs).logits, before)
    assert control.method == ae.get_method("other_question")(schedule="0:20,1:10,2:5")
    assert control.method.outlived is None


def test_without_another_question_nothing_is_answered(checkpoint: Path) -> None:
    method = ae.get_method("other_question")(schedule="1:20,4:6")
    model, inputs = llava(), prompt(5, 1, 7, 1)
    with ae.pruned(model, method), pytest.raises(ValueError, match="use it in a sweep or as a model of lmms-eval"):
        model(**inputs)
    with (
        ae.pruned(model, method.following(torch.zeros(1, 63))),
        pytest.raises(ValueError, match="ask both prompts about the same images"),
    ):
        model(**inputs)
    control = load_wrapper(checkpoint, "llava", "other_question", SCHEDULE)
    with pytest.raises(RequestError, match="no document of this task asks something else"):
        ask(control, DOCUMENTS[:2])
    simple = load_wrapper(checkpoint, "llava", "other_question", SCHEDULE, simple=True)
    simple.task_dict = {"quiz": {"test": DOCUMENTS}}
    asked = questions(DOCUMENTS[:1])
    (text, _, *rest) = asked[0].args
    asked[0].arguments = (text, rest[0], lambda entry: entry["images"], *rest[1:])
    with pytest.raises(RequestError, match="leave out --force_simple"):
        simple.generate_until(asked)
    with pytest.raises(ValueError, match="load the batch with them"):
        control.answer(control.encode([control.prompt(to_turn(DOCUMENTS[0]))]), Generation.read({}))


def to_turn(entry: Document) -> list[tuple[str, list[str | Image]]]:
    (message,) = to_messages(entry)
    return [("user", [*map(Image, entry["images"]), message["content"][-1]["text"]])]
