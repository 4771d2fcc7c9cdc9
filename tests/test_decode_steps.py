"""No decode step is made that no answer needs, and a stop is found where it ends, whatever the answer's length."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lmms_tiny import load_wrapper, mixed_documents, save_tiny_llava
from test_lmms_models import METHODS, Document, questions
from transformers import AutoTokenizer

from adaptinfer_eval.models.decoding import StopAt

DOCUMENTS, MINI = mixed_documents(), Path(__file__).parent.parent / "tasks" / "mini" / "model"


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    return functools.partial(load_wrapper, save_tiny_llava(tmp_path_factory.mktemp("tiny")), "llava", batch_size=8)


def first_tokens(model: Any, documents: list[Document]) -> list[int]:
    """Of the answers, in the order of the batch."""
    said: list[list[int]] = []
    handle = model.model.register_forward_hook(lambda *call: said.append(call[2].logits[:, -1].argmax(-1).tolist()))
    steps(model, documents, max_new_tokens=1)
    handle.remove()
    return said[0]


def steps(model: Any, documents: list[Document], **generation: Any) -> tuple[list[int], list[Any]]:
    """How many rows each forward of the decoder had, and the answers."""
    model.task_dict = {"quiz": {"test": documents}}
    rows: list[int] = []
    handle = model.anatomy.text.register_forward_hook(lambda *call: rows.append(len(call[2][0])))
    answers = model.generate_until(questions(documents, **generation))
    handle.remove()
    return rows, answers


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_of_one_token_is_a_prefill(load: Callable[..., Any], method: str) -> None:
    rows, answers = steps(load(method, METHODS[method]), DOCUMENTS, max_new_tokens=1)
    leader = [4] if method == "other_question" else []  # which reads the other questions first
    assert rows == [*leader, 4]
    assert [answer.token_counts.output_tokens for answer in answers] == [1] * 4


@pytest.mark.parametrize("method", ["vanilla", "adaptinfer", "tome"])
@pytest.mark.parametrize("end", ["until", "eos_token_id"])
def test_nothing_is_decoded_behind_the_last_end(load: Callable[..., Any], method: str, end: str) -> None:
    """Of all answers, or of those that go on: the text of the first token, or the token itself, ends them."""
    model = load(method, METHODS[method])
    ends: list[Any] = first_tokens(model, DOCUMENTS)
    if end == "until":
        ends = [model.tokenizer.decode(token) for token in ends]
    assert steps(model, DOCUMENTS, max_new_tokens=8, **{end: ends})[0] == [4]
    assert len(steps(model, DOCUMENTS, max_new_tokens=8, **{end: ends[:1]})[0]) > 1


def test_a_tokenizer_that_alone_knows_the_end_ends_the_answer(load: Callable[..., Any]) -> None:
    model = load()
    (first,) = first_tokens(model, DOCUMENTS[:1])
    model.model.generation_config.eos_token_id = None
    model.processor.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(first)
    assert steps(model, DOCUMENTS[:1], max_new_tokens=8)[0] == [1]


STOPS = ["ASSISTANT:", "Q: 42", "é", "🙂🙂", " "]


@pytest.mark.parametrize("stop", STOPS)
def test_a_look_at_the_end_finds_what_a_look_at_all_finds(stop: str) -> None:
    """In long answers of many bytes and special tokens, step by step; what stands over two steps, too."""
    tokenizer = AutoTokenizer.from_pretrained(MINI)
    generator = torch.Generator().manual_seed(0)
    filler = torch.randint(5, len(tokenizer), (4, 60), generator=generator)
    spelled = torch.tensor(tokenizer(f"x</s>{stop}y", add_special_tokens=False)["input_ids"])
    rows = torch.cat([filler[:, :40], spelled.expand(4, -1), filler[:, 40:]], 1)
    rows[0] = rows[0].roll(7)
    prompt = torch.randint(5, len(tokenizer), (4, 3), generator=generator)
    near, whole = StopAt([stop], tokenizer, 3, once=True), StopAt([stop], tokenizer, 3)
    seen = torch.zeros(4, dtype=torch.bool)
    for length in range(1, rows.shape[1] + 1):
        ids = torch.cat([prompt, rows[:, :length]], 1)
        found, wanted = near(ids, None), whole(ids, None)
        assert torch.equal(found | seen, wanted), f"after {length} tokens"
        seen |= found
    assert seen.all()
