"""Rows whose answers are over leave the decoder: the others' answers, logits and traces stay what they are alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from lmms_tiny import load_wrapper, mixed_documents
from test_batches import ANY_IMAGES
from test_lmms_models import ask
from tiny_models import CASES, MODELS, ROUNDING, batch, llava, prompt
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor

import adaptinfer_eval as ae
from adaptinfer_eval.models.decoding import Ended

END, LENGTHS = 95, [3, 6, 1, 9]
"""A token that ends answers, and after how many tokens those of `ANY_IMAGES` are made to."""


class EndAt(LogitsProcessor):
    """Row i says its own tokens, END in place `lengths[i]` and not before."""

    def __init__(self, lengths: Sequence[int], prompt_length: int) -> None:
        self.lengths, self.prompt_length = torch.tensor(lengths), prompt_length

    def __call__(self, input_ids: Tensor, scores: Any) -> Tensor:
        over = input_ids.shape[1] - self.prompt_length >= self.lengths
        scores = scores.clone()
        scores[:, END] = -torch.inf
        scores[over] = -torch.inf
        scores[over, END] = 0.0
        return scores


@torch.no_grad()
def answered(
    model: Any, method: ae.Method, prompts: list[dict[str, Tensor]], lengths: list[int], leave: bool, **options: Any
) -> tuple[list[Tensor], list[Tensor], ae.Trace, list[int]]:
    """Tokens and logits (n, vocabulary) of each answer, the trace, and how many rows each forward computed."""
    inputs, ended = batch(prompts), Ended([END])
    length, rows = inputs["input_ids"].shape[1], []
    layer = model.model.language_model.layers[-1]
    handle = layer.register_forward_hook(lambda *call: rows.append(len(call[2])))
    torch.manual_seed(0)
    with ae.pruned(model, method, ended=ended.rows if leave else None) as trace:
        out = model.generate(
            **inputs,
            **{"do_sample": False, **options},
            max_new_tokens=12,
            eos_token_id=END,
            pad_token_id=0,
            stopping_criteria=[ended],
            logits_processor=[EndAt(lengths, length)],
            output_logits=True,
            return_dict_in_generate=True,
        )
    handle.remove()
    logits = torch.stack(out.logits, 1)
    assert logits.isfinite().all()
    own = [(row, steps[: n + 1]) for row, steps, n in zip(out.sequences[:, length:], logits, lengths, strict=True)]
    assert all(row[n:].tolist() == [END] + [0] * (len(row) - n - 1) for (row, _), n in zip(own, lengths, strict=True))
    return [row[:n] for (row, _), n in zip(own, lengths, strict=True)], [steps for _, steps in own], trace, rows


@pytest.mark.parametrize(("family", "name", "options"), CASES)
def test_answers_are_those_of_single_prompts(family: str, name: str, options: dict[str, Any]) -> None:
    model, method = MODELS[family](), ae.get_method(name)(**options)
    prompts = [prompt(*facts) for facts in ANY_IMAGES]
    tokens, logits, trace, rows = answered(model, method, prompts, LENGTHS, leave=True)
    assert rows == [4, 4, 3, 3, 2, 2, 2, 1, 1, 1]
    for row, single in enumerate(prompts):
        own, own_logits, own_trace, _ = answered(model, method, [single], LENGTHS[row : row + 1], leave=False)
        assert tokens[row].tolist() == own[0].tolist()
        assert (logits[row] - own_logits[0]).abs().max() < ROUNDING[family]
        assert trace.entering[row].tolist() == own_trace.entering[0].tolist()
    _, _, stayed, whole = answered(model, method, prompts, LENGTHS, leave=False)
    assert whole == [4] * 10
    assert trace.kept.keys() == stayed.kept.keys()
    assert all(torch.equal(trace.kept[layer], stayed.kept[layer]) for layer in stayed.kept)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [LENGTHS, [2, 2, 2, 8], [5, 5, 5, 5]], ids=str)
def test_the_same_is_drawn(lengths: list[int], attention: str) -> None:
    model, method = llava(attention), ae.get_method("adaptinfer")(schedule="1:30,3:12,5:4")
    prompts, drawing = [prompt(*facts) for facts in ANY_IMAGES], {"do_sample": True, "temperature": 1.5, "top_p": 0.9}
    left, _, _, rows = answered(model, method, prompts, lengths, leave=True, **drawing)
    stayed, _, _, whole = answered(model, method, prompts, lengths, leave=False, **drawing)
    assert [row.tolist() for row in left] == [row.tolist() for row in stayed]
    assert (rows == whole) == (len(set(lengths)) == 1)
    greedy, _, _, _ = answered(model, method, prompts, lengths, leave=False)
    assert [row.tolist() for row in greedy] != [row.tolist() for row in left]


def test_only_a_share_that_pays_leaves() -> None:
    model, method = llava(), ae.get_method("fastv")(schedule="1:9")
    prompts, lengths = [prompt(5, 1, 7, seed) for seed in range(5)], [1, 2, 4, 4, 6]
    assert answered(model, method, prompts, lengths, leave=True)[3] == [5, 5, 5, 3, 3, 1, 1]


def test_other_caches_are_left_alone() -> None:
    """Quantized and offloaded ones, and those that hold more than keys and values, cannot give up rows."""

    class Other(DynamicCache):
        pass

    model, method = llava(), ae.get_method("adaptinfer")(schedule="1:30,3:12,5:4")
    prompts = [prompt(*facts) for facts in ANY_IMAGES]
    cache = Other(config=model.config.text_config)
    tokens, _, _, rows = answered(model, method, prompts, LENGTHS, leave=True, past_key_values=cache)
    assert rows == [4] * 10
    assert [row.tolist() for row in tokens] == [
        row.tolist() for row in answered(model, method, prompts, LENGTHS, True)[0]
    ]


def test_the_model_is_as_before_and_another_batch_is_refused() -> None:
    model, method = llava(), ae.get_method("adaptinfer")(schedule="1:30,3:12,5:4")
    prompts = [prompt(*facts) for facts in ANY_IMAGES]
    before = answered(model, ae.get_method("vanilla")(), prompts, LENGTHS, leave=False)[0]
    answered(model, method, prompts, LENGTHS, leave=True)
    after = answered(model, ae.get_method("vanilla")(), prompts, LENGTHS, leave=False)[0]
    assert all(map(torch.equal, before, after))
    with (
        pytest.raises(ValueError, match="tells of 2 answers, and 4 are decoded"),
        ae.pruned(model, method, ended=lambda: [True, False]),
    ):
        model.generate(**batch(prompts), max_new_tokens=3)


# The wrapper ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["vanilla", "adaptinfer", "downsample"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, method: str, tmp_path: Path) -> None:
    """Each answer ends in the middle of what it would have been."""
    row = FAMILIES[family]
    if method in row.refuses:
        pytest.skip(row.refuses[method])
    arguments = {"adaptinfer": ",schedule=" + row.placed("0:20/1:10/2:5", method), "downsample": ",budget=9"}
    folder = row.save(tmp_path / family, row.layers)
    load: Callable[[int], Any] = lambda size: load_wrapper(  # noqa: E731
        folder, family, method, arguments.get(method, ""), size, dtype="float64"
    )
    together, alone, documents = load(4), load(1), row.asked(mixed_documents())
    whole = ask(alone, documents, max_new_tokens=20)
    stops = [text[at : at + 3] for text, at in zip(whole, (2, 8, 14, 20), strict=False)]
    rows: list[int] = []
    together.anatomy.layers[-1].register_forward_hook(
        lambda *call: rows.append(len(call[2][0] if isinstance(call[2], tuple) else call[2]))
    )
    assert ask(together, documents, max_new_tokens=20, until=stops) == ask(
        alone, documents, max_new_tokens=20, until=stops
    )
    assert (len(set(rows)) > 1) == (not row.hybrid), rows
