"""Options of generation change no more than they say: not by padding, sharing or the wrapper's own arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import ALIKE, FAMILIES, crossed
from lmms_tiny import load_wrapper
from PIL import Image as Picture
from test_lmms_models import METHODS, ask
from test_lmms_models import questions as requests
from transformers import GenerationConfig

from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.models.decoding import continued
from adaptinfer_eval.models.generation import Generation, may_see_prompt
from adaptinfer_eval.models.kept import kept_tokens
from adaptinfer_eval.models.requests import RequestError

Document = dict[str, Any]
PICTURES = [
    Picture.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 30, 3), dtype=np.uint8)) for seed in (0, 1)
]
ASKED = [
    (PICTURES[:1], "Is there a red circle?"),
    (PICTURES[:1], "What word is on the green sign? Answer the question using a single word or phrase."),
    (PICTURES[1:], "yes"),
]
"""What can share a prefix; the prompts' lengths differ."""
DOCUMENTS: list[Document] = [{"images": images, "question": question} for images, question in ASKED]
MIXED = [*DOCUMENTS, {"images": PICTURES, "question": "Is it?"}, {"images": [], "question": "Is there a sign?"}]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: FAMILIES[family].save(tmp_path_factory.mktemp(family)) for family in ALIKE}


@pytest.fixture(scope="module")
def llava(checkpoints: dict[str, Path]) -> Path:
    return checkpoints["llava"]


def edited(folder: Path, file: str, changes: dict[str, Any], *gone: str) -> None:
    path = folder / file
    left = {key: value for key, value in json.loads(path.read_text()).items() if key not in gone}
    path.write_text(json.dumps({**left, **changes}))


def prompts(model: Any, documents: list[Document]) -> list[Any]:
    return [model.prompt([("user", [*map(Image, d["images"]), d["question"]])]) for d in documents]


def rows(model: Any, batch: Any, **options: Any) -> list[tuple[Any, ...]]:
    """Of each prompt: its answer, what it cost, and which vision tokens it kept."""
    answers, trace = model.traced_answer(batch, Generation.read({"max_new_tokens": 6, **options}))
    is_vision = batch.inputs["input_ids"] == model.processor.image_token_id
    kept = kept_tokens(trace, is_vision, [len(prompt.images) for prompt in batch.prompts])
    assert trace.entering.tolist() == [list(answer.cost.entering) for answer in answers]
    return [(a.text, a.cost.entering, a.cost.text_tokens, row) for a, row in zip(answers, kept, strict=True)]


@contextmanager
def set_by_the_checkpoint(model: Any, **options: Any) -> Iterator[None]:
    before = model.model.generation_config
    changed = {**before.to_dict(), **options}
    model.model.generation_config = GenerationConfig(**changed)  # type: ignore[no-untyped-call]
    yield
    model.model.generation_config = before


def seeing(last: int) -> dict[str, dict[str, Any]]:
    """Options that look at a prompt; `last`: the token that every prompt ends with, which the model is made to want."""
    wanted = [[[last], 100.0]]
    return {
        "no_repeat_ngram_size": {"no_repeat_ngram_size": 2, "sequence_bias": wanted},
        "repetition_penalty": {"repetition_penalty": 3.0},
        "encoder_repetition_penalty": {"encoder_repetition_penalty": 0.3},
        "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 2, "sequence_bias": wanted},
        "bad_words_ids": {"bad_words_ids": [[last, last]], "sequence_bias": wanted},
        "sequence_bias": {"sequence_bias": [[[last, last, last], -200.0], [[last], 100.0]]},
        "min_length": {"min_length": 170, "eos_token_id": last, "sequence_bias": wanted},
    }


@pytest.mark.parametrize("by", ["request", "checkpoint"])
@pytest.mark.parametrize("name", seeing(0))
def test_what_looks_at_a_prompt_sees_the_prompt(llava: Path, name: str, by: str) -> None:
    """One by one, padded on the left, and with a shared prefix."""
    model = load_wrapper(llava, "llava")
    alone = [model.encode([prompt]) for prompt in prompts(model, DOCUMENTS)]
    options = seeing(int(alone[0].inputs["input_ids"][0, -1]))[name]
    shared = model.encode(prompts(model, DOCUMENTS))
    model.shares_prefixes = False
    padded = model.encode(prompts(model, DOCUMENTS))
    assert shared.prefix is not None
    assert padded.prefix is None
    with set_by_the_checkpoint(model, **(options if by == "checkpoint" else {})):
        asked = options if by == "request" else {}
        expected = [row for batch in alone for row in rows(model, batch, **asked)]
        assert rows(model, padded, **asked) == expected
        assert rows(model, shared, **asked) == expected
        assert rows(model, model.encode_images(shared, [model.method]), **asked) == expected
    assert [row[0] for row in expected] != [row[0] for row in rows(model, padded)]


@pytest.mark.parametrize(("family", "method", "arguments"), crossed(METHODS.items(), ALIKE))
def test_every_method_answers_and_traces_one_by_one(
    checkpoints: dict[str, Path], family: str, method: str, arguments: str
) -> None:
    """With no, one or two images, and two tiles of an image."""
    if method == "other_question":
        pytest.skip("other questions are of documents")
    tiles = ",max_patches=2" if family == "internvl" else ""
    model = load_wrapper(checkpoints[family], family, method, arguments + tiles)
    expected = [
        row for prompt in prompts(model, MIXED) for row in rows(model, model.encode([prompt]), repetition_penalty=3.0)
    ]
    batch = model.encode(prompts(model, MIXED))
    assert rows(model, batch, repetition_penalty=3.0) == expected
    assert rows(model, model.encode_images(batch, [model.method]), repetition_penalty=3.0) == expected


def test_other_questions_go_one_by_one_too(llava: Path) -> None:
    documents = [*DOCUMENTS, {"images": PICTURES[1:], "question": "Answer the question."}]
    answers = [
        ask(load_wrapper(llava, "llava", "other_question", METHODS["other_question"], size), documents, **options)
        for size in (1, 4)
        for options in ({"repetition_penalty": 3.0}, {})
    ]
    assert answers[0] == answers[2] != answers[1]


def test_blind_options_leave_a_batch_together(llava: Path) -> None:
    model = load_wrapper(llava, "llava")
    blind: dict[str, Any] = {
        "num_beams": 3,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "min_new_tokens": 2,
    }
    blind |= {"max_new_tokens": 9, "length_penalty": 0.5, "suppress_tokens": [7], "eos_token_id": 3, "use_cache": True}
    off = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "bad_words_ids": None, "guidance_scale": 1}
    assert may_see_prompt({**blind, **off, "made_up": 5}) == ()
    assert model.sees_prompt(Generation.read(blind)) == ()
    assert model.sees_prompt(Generation.read({})) == ()
    calls = []
    forward = model.model.model.language_model.register_forward_hook(lambda *call: calls.append(len(call[2][0])))
    rows(model, model.encode(prompts(model, DOCUMENTS)), max_new_tokens=1)
    rows(model, model.encode(prompts(model, DOCUMENTS[:1] * 3)), max_new_tokens=1, repetition_penalty=3.0)
    assert calls == [3, 3]  # nothing to see where prompts are of one length
    forward.remove()


def test_an_option_that_nobody_knows_yet_may_see_the_prompt() -> None:
    """All that transformers has, but for those that are known not to."""
    known = [name for name in vars(GenerationConfig()) if not name.startswith("_")]  # type: ignore[no-untyped-call]
    found = set(may_see_prompt(dict.fromkeys(known, 2)))
    assert {*seeing(0), "guidance_scale", "stop_strings", "watermarking_config", "forced_bos_token_id"} <= found
    assert not {"max_new_tokens", "temperature", "num_beams", "eos_token_id", "use_cache"} & found


@pytest.mark.parametrize("family", ALIKE)
@pytest.mark.parametrize("model_names_the_end", [True, False])
def test_a_tokenizer_without_pad_token(family: str, model_names_the_end: bool, tmp_path: Path) -> None:
    """As Llama-3's: one prompt, and a batch padded on the left or behind a shared prefix; with penalties, too."""
    whole, lacking = (FAMILIES[family].save(tmp_path / name) for name in ("whole", "lacking"))
    edited(lacking, "tokenizer_config.json", {}, "pad_token", *(["eos_token"] if model_names_the_end else []))
    if not model_names_the_end:
        edited(lacking, "generation_config.json", {}, "eos_token_id", "pad_token_id")
    expected = ask(load_wrapper(whole, family, batch_size=1), MIXED)
    penalised = ask(load_wrapper(whole, family, batch_size=1), MIXED, repetition_penalty=2.0)
    for size in (1, 4):
        model = load_wrapper(lacking, family, batch_size=size)
        assert ask(model, MIXED) == expected
        assert ask(model, MIXED, repetition_penalty=2.0) == penalised
    if family == "llava":  # an earlier answer is closed all the same
        text = model.prompt([("user", ["a"]), ("assistant", ["b"]), ("user", ["c"])]).text
        assert "ASSISTANT: b</s>USER: c" in text
    assert ask(model, DOCUMENTS) == expected[: len(DOCUMENTS)]  # these share


def test_a_checkpoint_that_never_says_how_an_answer_ends(llava: Path) -> None:
    model = load_wrapper(llava, "llava")
    model.processor.tokenizer.eos_token = model.model.generation_config.eos_token_id = None
    with pytest.raises(RequestError, match="names no token that ends an answer: give its tokenizer an eos_token"):
        ask(model, DOCUMENTS)


@pytest.mark.parametrize(
    "options",
    [{"pad_token_id": 0}, {"return_dict_in_generate": False}, {"output_scores": True}, {"num_return_sequences": 1}],
    ids=str,
)
def test_what_the_wrapper_itself_gives_to_generate(llava: Path, options: dict[str, Any]) -> None:
    model = load_wrapper(llava, "llava")
    assert ask(model, MIXED, **options) == ask(model, MIXED)


def test_a_requests_own_end_and_stop_strings(llava: Path) -> None:
    for size in (1, 4):
        model = load_wrapper(llava, "llava", batch_size=size)
        answers = ask(model, MIXED)
        whole = answers[0]
        ids = model.tokenizer(whole)["input_ids"]
        (ended, *_) = ask(model, MIXED, eos_token_id=ids[3])
        assert ended == model.tokenizer.decode(ids[: ids.index(ids[3])]).strip()
        places = ((row, letter) for row, text in enumerate(answers) for letter in text[:-2] if letter.isascii())
        row, letter = next(places)
        stopped = ask(model, MIXED, stop_strings=letter)[row]
        assert answers[row].startswith(stopped)
        assert letter in stopped
        assert len(stopped) < len(answers[row])


@pytest.mark.parametrize("until", [[""], ["\n", ""], [2], [None]])
def test_a_stop_string_that_ends_every_answer_is_refused(llava: Path, until: list[Any]) -> None:
    model = load_wrapper(llava, "llava")
    model.task_dict = {"quiz": {"test": MIXED}}
    with pytest.raises(RequestError, match=r"task quiz, doc_id 0: .*a stop is a text of at least one character"):
        model.generate_until(requests(MIXED, until=until))


def test_scores_are_the_models_own_whatever_its_generation_config_forbids(llava: Path) -> None:
    model = load_wrapper(llava, "llava")
    (prompt, *_) = prompts(model, DOCUMENTS)
    batch = model.encode([type(prompt)(prompt.text, prompt.images, "red circle in the picture? red circle")])
    expected = model.score(batch)
    tokens = continued(model.tokenizer, prompt.text, "red circle in the picture? red circle")
    forbids = {"no_repeat_ngram_size": 1, "bad_words_ids": [[tokens[1]]], "suppress_tokens": [tokens[0]]}
    with set_by_the_checkpoint(model, **forbids):
        assert model.score(batch) == expected
