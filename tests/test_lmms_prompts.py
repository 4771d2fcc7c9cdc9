"""What is asked, before any model: prompts, batches, generation arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lmms_eval.api.instance import Instance
from lmms_tiny import save_tiny_llava
from transformers import AutoProcessor, AutoTokenizer

from adaptinfer_eval.backbones.messages import Image, Message, Part, checkpoint_template
from adaptinfer_eval.backbones.vicuna import VICUNA_SYSTEM, vicuna_v1
from adaptinfer_eval.models.decoding import cut, until_end
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.requests import Request, batches, generation_requests, one_ahead, simple_messages

QUESTION: list[Message] = [("user", [Image("1.png"), Image("2.png"), "Which is red?"])]


def question(context: str, images: list[str], **generation: Any) -> Instance:
    arguments = (context, generation, lambda document: images, 0, "quiz", "test")
    return Instance("generate_until", arguments, 0, metadata={"task": "quiz", "doc_id": 0, "repeats": 1})


def picture(request: Request) -> int:
    """Every request has its own."""
    return request.position


def test_vicuna_v1_is_the_original_conversation() -> None:
    def text(*messages: Message) -> str:
        return vicuna_v1(messages, "<image>", "</s>")

    assert text(*QUESTION) == f"{VICUNA_SYSTEM} USER: <image> <image>\nWhich is red? ASSISTANT:"
    assert text(("user", ["Which?"])) == f"{VICUNA_SYSTEM} USER: Which? ASSISTANT:"
    history: list[Message] = [("user", ["Hello"]), ("assistant", ["Hi"]), ("user", ["Which?", Image("1.png")])]
    assert text(*history) == f"{VICUNA_SYSTEM} USER: Hello ASSISTANT: Hi</s>USER: Which?\n<image> ASSISTANT:"
    assert text(("system", ["Be brief."]), *QUESTION).startswith("Be brief. USER: <image>")
    with pytest.raises(ValueError, match="can only come first"):
        text(*QUESTION, ("system", ["Be brief."]))


def test_the_checkpoints_own_template(tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(save_tiny_llava(tmp_path))  # type: ignore[no-untyped-call]
    assert checkpoint_template(QUESTION, processor) == "USER: <image>\n<image>\nWhich is red? ASSISTANT:"


def test_images_go_first_or_where_the_text_marks_them() -> None:
    def content(context: str, images: list[str]) -> list[Part]:
        (request,) = generation_requests([question(context, images)], is_simple=True)
        ((role, content),) = simple_messages(request, {})
        assert role == "user"
        return content

    assert content("Which?", ["1.png", "2.png"]) == [Image("1.png"), Image("2.png"), "Which?"]
    assert content("Is <image> like <image>?", ["1.png", "2.png"]) == [
        *("Is ", Image("1.png"), " like ", Image("2.png"), "?")
    ]
    with pytest.raises(ValueError, match="marks 1 images with <image>, the document has 2"):
        content("Is <image> red?", ["1.png", "2.png"])


def test_batches_hold_what_is_answered_alike_longest_first(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_llava(tmp_path))
    asked = [question("%" * length, [], temperature=0) for length in (1, 2, 3, 4, 5)]
    asked += [question("%" * length, [], temperature=0.7) for length in (1, 2)]
    requests = generation_requests(asked, is_simple=True)
    positions = [[request.position for request in batch] for batch in batches(requests, 3, tokenizer, picture)]
    assert positions == [[4, 3, 2], [1, 0], [6, 5]]
    assert list(batches([], 3, tokenizer, picture)) == []


def test_prompts_of_equal_length_in_tokens_share_a_batch(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_llava(tmp_path))
    word = max(sorted(filter(str.isascii, tokenizer.get_vocab())), key=lambda word: word.isalpha() * len(word))
    texts = [word, "%%", word * 2, "%"]  # by characters, none stands beside its equal
    requests = generation_requests([question(text, []) for text in texts], is_simple=True)
    found = list(batches(requests, 2, tokenizer, picture))
    assert [[len(tokenizer(r.context)["input_ids"]) for r in batch] for batch in found] == [[2, 2], [1, 1]]


def test_questions_about_one_picture_share_a_batch(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(save_tiny_llava(tmp_path))
    requests = generation_requests([question("%" * length, []) for length in (1, 2, 3, 4, 5, 6)], is_simple=True)
    found = batches(requests, 2, tokenizer, picture=lambda request: request.position % 3)
    assert [[request.position for request in batch] for batch in found] == [[5, 2], [4, 1], [3, 0]]


def test_loading_ahead_keeps_order_and_fails_in_turn() -> None:
    assert list(one_ahead(lambda item: item * item, range(5))) == [0, 1, 4, 9, 16]
    results = one_ahead(lambda item: 6 // item, [3, 2, 0, 1])
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(one_ahead(str, [])) == []


def test_generation_arguments() -> None:
    greedy = Generation.read({"temperature": 0, "top_p": 0.9, "do_sample": True, "until": "stop", "foo": 1, "top_k": 5})
    assert greedy.options == {
        "max_new_tokens": 1024,
        "num_beams": 1,
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": 5,
    }
    assert (greedy.until, greedy.ignored) == (("stop",), ("foo",))
    sampled = Generation.read({"temperature": 0.7, "top_p": 0.9, "until": None})
    assert (sampled.options["do_sample"], sampled.options["top_p"], sampled.until) == (True, 0.9, ())
    assert Generation.read({"temperature": 0.7, "do_sample": False}).options["do_sample"] is False


def test_answers_end_at_the_first_stop_or_end_token() -> None:
    assert cut("yes\n\nUSER: more", ["USER:", "\n\n"]) == "yes"
    assert cut("yes", ["\n\n"]) == "yes"
    assert until_end([5, 6, 2, 7], [2, 0]) == [5, 6]
    assert until_end([5, 6], [2]) == [5, 6]
