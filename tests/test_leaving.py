"""Rows whose answers are over leave the decoder: the others' answers, logits and traces stay what they are alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from families import FAMILIES, crossed
from lmms_tiny import load_wrapper, mixed_documents
from test_batches import ANY_IMAGES
from tiny_models import CASES, METHODS, MODELS, ROUNDING, batch, llava, prompt
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor

import adaptinfer_eval as ae
from adaptinfer_eval.backbones import anatomy_of
from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.models.decoding import Ended

END, LENGTHS = 95, [3, 6, 1, 9]
"""A token that ends answers, and after how many tokens those of `ANY_IMAGES` are made to."""


class EndAt(LogitsProcessor):
    """Row i says its own tokens, END in place `lengths[i]` and not before."""

    def __init__(self, lengths: Sequence[int], prompt_length: int) -> None:
        self.lengths, self.prompt_length = torch.tensor(lengths), prompt_length

    def __call__(self, input_ids: Any, scores: Any) -> Tensor:
        over = input_ids.shape[1] - self.prompt_length >= self.lengths
        forced: Tensor = scores.clone()
        forced[:, END] = -torch.inf
        forced[over] = -torch.inf
        forced[over, END] = 0.0
        return forced


@torch.no_grad()
def answered(
    model: Any, method: ae.Method, inputs: Any, lengths: list[int], leave: bool, **options: Any
) -> tuple[list[Tensor], list[Tensor], ae.Trace, list[int]]:
    """Tokens and logits (n, vocabulary) of each answer, the trace, and how many rows each forward computed."""
    ended, length, rows = Ended([END]), inputs["input_ids"].shape[1], []
    decoder: Any = anatomy_of(model).text

    def count(_module: Any, _args: Any, output: Any) -> None:
        rows.append(len(output[0] if isinstance(output, tuple) else output))

    handle = decoder.layers[-1].register_forward_hook(count)
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
    tokens, logits, trace, rows = answered(model, method, batch(prompts), LENGTHS, leave=True)
    assert rows == [4, 4, 3, 3, 2, 2, 2, 1, 1, 1]
    for row, single in enumerate(prompts):
        own, own_logits, own_trace, _ = answered(model, method, single, LENGTHS[row : row + 1], leave=False)
        assert tokens[row].tolist() == own[0].tolist()
        assert (logits[row] - own_logits[0]).abs().max() < ROUNDING[family]
        assert trace.entering[row].tolist() == own_trace.entering[0].tolist()
    _, _, stayed, whole = answered(model, method, batch(prompts), LENGTHS, leave=False)
    assert whole == [4] * 10
    assert trace.kept.keys() == stayed.kept.keys()
    assert all(torch.equal(trace.kept[layer], stayed.kept[layer]) for layer in stayed.kept)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("lengths", [LENGTHS, [2, 2, 2, 8], [5, 5, 5, 5]], ids=str)
def test_the_same_is_drawn(lengths: list[int], attention: str) -> None:
    model, method = llava(attention), ae.get_method("adaptinfer")(schedule="1:30,3:12,5:4")
    prompts, drawing = (
        batch([prompt(*facts) for facts in ANY_IMAGES]),
        {"do_sample": True, "temperature": 1.5, "top_p": 0.9},
    )
    left, _, _, rows = answered(model, method, prompts, lengths, leave=True, **drawing)
    stayed, _, _, whole = answered(model, method, prompts, lengths, leave=False, **drawing)
    assert [row.tolist() for row in left] == [row.tolist() for row in stayed]
    assert (rows == whole) == (len(set(lengths)) == 1)
    greedy, _, _, _ = answered(model, method, prompts, lengths, leave=False)
    assert [row.tolist() for row in greedy] != [row.tolist() for row in left]


def test_only_a_share_that_pays_leaves() -> None:
    model, method = llava(), ae.get_method("fastv")(schedule="1:9")
    prompts, lengths = batch([prompt(5, 1, 7, seed) for seed in range(5)]), [1, 2, 4, 4, 6]
    assert answered(model, method, prompts, lengths, leave=True)[3] == [5, 5, 5, 3, 3, 1, 1]


def test_other_caches_are_left_alone() -> None:
    """Quantized and offloaded ones, and those that hold more than keys and values, cannot give up rows."""

    class Other(DynamicCache):
        pass

    model, method = llava(), ae.get_method("adaptinfer")(schedule="1:30,3:12,5:4")
    prompts = batch([prompt(*facts) for facts in ANY_IMAGES])
    cache = Other(config=model.config.text_config)
    tokens, _, _, rows = answered(model, method, prompts, LENGTHS, leave=True, past_key_values=cache)
    assert rows == [4] * 10
    left = answered(model, method, prompts, LENGTHS, leave=True)[0]
    assert [row.tolist() for row in tokens] == [row.tolist() for row in left]


def test_the_model_is_as_before_and_another_batch_is_refused() -> None:
    model, method = llava(), ae.get_method("adaptinfer")(schedule="1:30,3:12,5:4")
    prompts = batch([prompt(*facts) for facts in ANY_IMAGES])
    before = answered(model, ae.get_method("vanilla")(), prompts, LENGTHS, leave=False)[0]
    answered(model, method, prompts, LENGTHS, leave=True)
    after = answered(model, ae.get_method("vanilla")(), prompts, LENGTHS, leave=False)[0]
    assert all(map(torch.equal, before, after))
    with (
        pytest.raises(ValueError, match="tells of 2 answers, and 4 are decoded"),
        ae.pruned(model, method, ended=lambda: [True, False]),
    ):
        model.generate(**prompts, max_new_tokens=3)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    def load(family: str) -> Any:
        row = FAMILIES[family]
        folder = row.save(tmp_path_factory.mktemp(family), row.layers)
        return load_wrapper(folder, family, dtype="float64")

    return functools.cache(load)


ABOUT = ("vanilla", "adaptinfer", "fastv", "downsample", "visionzip", "vscan")
"""Methods that do nothing, renumber tokens, keep positions, drop tokens before the decoder, make some, do both."""


@pytest.mark.parametrize(("family", "name", "options"), crossed([method for method in METHODS if method[0] in ABOUT]))
def test_every_family(load: Callable[[str], Any], family: str, name: str, options: dict[str, Any]) -> None:
    wrapper, row, method = load(family), FAMILIES[family], ae.get_method(name)(**options)
    wrapper.shares_prefixes = False
    documents = row.asked(mixed_documents())
    asked = [wrapper.prompt([("user", [*map(Image, d["images"]), d["question"]])]) for d in documents]
    inputs = wrapper.encode(asked).inputs.to(wrapper.model.dtype)
    lengths = LENGTHS[: len(documents)]
    silent: dict[str, Any] = {"suppress_tokens": list(wrapper.anatomy.vision_ids)}  # a random model may say <image>
    left, logits, _, rows = answered(wrapper.model, method, inputs, lengths, leave=True, **silent)
    stayed, whole_logits, _, whole = answered(wrapper.model, method, inputs, lengths, leave=False, **silent)
    assert [row.tolist() for row in left] == [row.tolist() for row in stayed]
    assert all(torch.allclose(*both, atol=row.rounding) for both in zip(logits, whole_logits, strict=True))
    assert (rows == whole) == row.hybrid  # a state that is carried stays
