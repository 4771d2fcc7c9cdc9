"""The wrappers find questions about the same picture, and answer them as they would one by one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from families import ALIKE, FAMILIES, crossed
from lmms_eval.api.instance import Instance
from lmms_tiny import load_wrapper
from PIL import Image as Picture
from test_lmms_models import METHODS, questions
from tiny_models import takes_features
from torch import Tensor

from adaptinfer_eval.models.pictures import pad_behind, shared_prefix, stored_pictures
from adaptinfer_eval.models.requests import Request, generation_requests
from adaptinfer_eval.pruning.prefix import SharedPrefix

SHOWN = [0, 1, 2, 0, 1, 0, 3]
"""Which picture each document shows."""
CASES = [(family, method) for family, method, _ in crossed(METHODS.items(), ALIKE)]
I, P = 9, 0  # noqa: E741 an image token and padding


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: FAMILIES[family].save(tmp_path_factory.mktemp(family)) for family in ALIKE}


def documents() -> datasets.Dataset:
    """Questions of unequal length about four pictures of unequal shape, as a task's data set."""
    rng = np.random.default_rng(0)
    shown = [Picture.fromarray(rng.integers(0, 256, (20 + 9 * i, 50 - 5 * i, 3), dtype=np.uint8)) for i in range(4)]
    asked = ["Is there a red circle? " * (1 + number) for number in range(len(SHOWN))]
    features = datasets.Features({"image": datasets.Image(), "question": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": [shown[i] for i in SHOWN], "question": asked}, features=features)


def to_messages(document: dict[str, Any]) -> list[dict[str, Any]]:
    image = {"type": "image", "url": document["image"]}
    return [{"role": "user", "content": [image, {"type": "text", "text": document["question"]}]}]


def ask(model: Any, found: datasets.Dataset, **generation: Any) -> list[str]:
    model.task_dict = {"quiz": {"test": found}}
    return [answer.text for answer in model.generate_until(questions(found, to_messages, **generation))]


@pytest.mark.parametrize(("family", "method"), CASES)
def test_answers_are_those_of_single_questions(
    checkpoints: dict[str, Path], family: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    single, batched = (load_wrapper(checkpoints[family], family, method, METHODS[method], size) for size in (1, 4))
    alone, shared, encode = ask(single, documents()), [], batched.encode

    def seen(*arguments: Any) -> Any:
        shared.append(encode(*arguments))
        return shared[-1]

    monkeypatch.setattr(batched, "encode", seen)
    assert ask(batched, documents()) == alone
    assert len(set(alone)) == len(SHOWN)
    assert sum(batch.prefix is not None for batch in shared) >= 2
    assert batched.audit() == pytest.approx(single.audit())


@pytest.mark.parametrize("beams", [1, 3])
def test_tiles_of_an_image_are_shared_too(checkpoints: dict[str, Path], beams: int) -> None:
    def load(batch_size: int) -> Any:
        options = ",schedule=0:20/1:10/2:5,max_patches=2"
        return load_wrapper(checkpoints["internvl"], "internvl", "adaptinfer", options, batch_size)

    assert ask(load(4), documents(), num_beams=beams) == ask(load(1), documents(), num_beams=beams)


@takes_features
def test_each_picture_of_a_batch_is_encoded_once(checkpoints: dict[str, Path]) -> None:
    model, encoded = load_wrapper(checkpoints["llava"], "llava", batch_size=4), Counter[int]()
    model.model.model.vision_tower.register_forward_hook(lambda *call: encoded.update([len(call[2].last_hidden_state)]))

    def images() -> int:
        ask(model, documents())
        return sum(size * times for size, times in encoded.items())

    assert images() == 4  # no picture stands in two batches
    model.shares_prefixes = False
    assert images() == 4 + len(SHOWN)


def test_scores_are_those_of_single_questions(checkpoints: dict[str, Path]) -> None:
    def score(batch_size: int) -> list[tuple[float, bool]]:
        model = load_wrapper(checkpoints["llava"], "llava", "adaptinfer", METHODS["adaptinfer"], batch_size)
        found = documents()
        model.task_dict = {"quiz": {"test": found}}
        return model.loglikelihood(  # type: ignore[no-any-return]
            [
                Instance(
                    "loglikelihood",
                    (document["question"], option, lambda shown: [shown["image"]], number, "quiz", "test"),
                    0,
                    metadata={"task": "quiz", "doc_id": number, "repeats": 1},
                )
                for number, document in enumerate(found)
                for option in ("yes", "no it is not")
            ]
        )

    assert [chosen for chosen, _ in score(4)] == pytest.approx([chosen for chosen, _ in score(1)], abs=1e-4)


def test_nothing_is_shared_where_attention_slides(checkpoints: dict[str, Path]) -> None:
    """A window counts columns, and padding in the middle of a prompt would take some of them."""
    model = load_wrapper(checkpoints["llava"], "llava")
    asked = generation_requests(questions(documents().select([0, 3]), to_messages), is_simple=False)
    model.task_dict = {"quiz": {"test": documents().select([0, 3])}}
    assert model.load_batch(asked).prefix is not None
    model.model.config.text_config.sliding_window = 40
    batch = model.load_batch(asked)
    assert batch.prefix is None
    assert not batch.inputs["attention_mask"][:, 0].all()


def requests() -> list[Request]:
    return generation_requests(questions([{"question": str(number)} for number in range(3)]), is_simple=False)


def test_pictures_are_told_apart_as_they_are_stored() -> None:
    asked = generation_requests(questions(documents(), to_messages), is_simple=False)
    keys = list(map(stored_pictures({"quiz": {"test": documents()}}), asked))
    assert [keys.index(key) for key in keys] == [SHOWN.index(picture) for picture in SHOWN]


@pytest.mark.parametrize(
    ("found", "same"),
    [
        (datasets.Dataset.from_dict({"imageId": ["a", "b", "a"]}), [0, 1, 0]),
        (datasets.Dataset.from_dict({"image_id": [["a"], ["b"], ["a"]]}), [0, 1, 0]),
        (datasets.Dataset.from_dict({"image": [{"bytes": None, "path": name} for name in "aba"]}), [0, 1, 0]),
        (datasets.Dataset.from_dict({"question": ["a", "b", "a"]}), [0, 1, 2]),
        ([{"question": "a"}] * 3, [0, 1, 2]),
    ],
    ids=["named", "a list of names", "files", "unknown", "a list"],
)
def test_pictures_stored_elsewhere(found: Any, same: list[int]) -> None:
    keys = list(map(stored_pictures({"quiz": {"test": found}}), requests()))
    assert [keys.index(key) for key in keys] == same


def inputs(*rows: list[int]) -> dict[str, Tensor]:
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids != P).long()}


@pytest.mark.parametrize(
    ("rows", "pictures", "first"),
    [
        ([[P, 1, I, I, 5], [1, I, I, 6, 7]], "aa", (0, 0)),
        ([[1, I, I, 6, 7], [1, I, I, 5, 6], [1, I, I, 5, 6]], "aba", (0, 1, 0)),
        ([[P, 1, I, I, 5], [1, I, I, 6, 7]], "ab", None),  # two pictures
        ([[P, 1, I, I, 5], [2, I, I, 6, 7]], "aa", None),  # other text before the picture
        ([[1, I, I, 6, 7], [1, 2, I, I, 7]], "aa", None),  # more text before it
        ([[1, I, I, 6, 7], [1, I, 2, 6, 7]], "aa", None),  # fewer vision tokens
        ([[P, 1, I, I, 5], [P, P, 1, I, I]], "aa", None),  # no question behind it
        ([[1, 2, 3], [1, 2, 3]], ["", ""], None),  # no picture
    ],
)
def test_what_prompts_have_in_common(rows: list[list[int]], pictures: str, first: tuple[int, ...] | None) -> None:
    asked = inputs(*rows)
    prefix = shared_prefix(list(pictures), asked, asked["input_ids"] == I)
    assert prefix == (None if first is None else SharedPrefix(3, first))


def test_padding_goes_behind_the_prefix() -> None:
    padded = {**inputs([P, P, 1, I, 5], [P, 1, I, 6, 7], [1, I, 6, 7, 8]), "pixel_values": torch.zeros(3, 2)}
    pad_behind(SharedPrefix(2, (0, 0, 0)), padded)
    # Padding repeats the last token, which is the question's already: no other token becomes part of the prompt.
    assert padded["input_ids"].tolist() == [[1, I, 5, 5, 5], [1, I, 7, 6, 7], [1, I, 6, 7, 8]]
    assert padded["attention_mask"].tolist() == [[1, 1, 0, 0, 1], [1, 1, 0, 1, 1], [1, 1, 1, 1, 1]]
    assert padded["pixel_values"].shape == (3, 2)
