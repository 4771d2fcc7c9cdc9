"""Layers that several methods have in common run once for a batch, and nothing else changes: not in the last bit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from test_batches import ANY_IMAGES, answers
from test_guarantees import NoSync
from test_prefix import PREFIX, WHOLE, counted, together
from tiny_models import LAYER_METHODS, METHODS, SIZES, batch, decoder, llava, prompt
from transformers import DynamicCache

import adaptinfer_eval as ae
from adaptinfer_eval.pruning.prefix import SharedPrefix
from adaptinfer_eval.pruning.proof import PruningError
from adaptinfer_eval.pruning.trunk import Trunk

LAYERS = SIZES["num_hidden_layers"]


def first_stage(method: ae.Method, layers: int = LAYERS) -> int:
    """The layer that it is behind; the last one of a method that has none in the decoder, or one before it, too."""
    inside = method.inside(layers)
    return layers - 1 if inside is None else min(stage.layer for stage in inside.places(layers))


def in_order(methods: list[tuple[str, dict[str, Any]]]) -> list[ae.Method]:
    """As they are to be attached, vanilla last."""
    return sorted((ae.get_method(name)(**options) for name, options in methods), key=first_stage)


def check_same(model: Any, inputs: dict[str, Any], prefix: SharedPrefix | None, **options: Any) -> None:
    trunk = Trunk()
    for method in in_order(METHODS):
        ids, logits, trace = answers(model, method, inputs, prefix=prefix, **options)
        shared_ids, shared_logits, shared = answers(model, method, inputs, prefix=prefix, trunk=trunk, **options)
        assert torch.equal(ids, shared_ids), method
        assert torch.equal(logits, shared_logits), method
        assert trace.kept.keys() == shared.kept.keys(), method
        assert all(torch.equal(trace.kept[layer], shared.kept[layer]) for layer in trace.kept), method
        assert all(torch.equal(trace.groups[layer], shared.groups[layer]) for layer in trace.groups), method
        assert torch.equal(trace.entering, shared.entering), method
        assert trace.schedules == shared.schedules, method
    assert trunk.height == 4  # VTW's first stage is after layer 3; vanilla goes on from there


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("generation", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_ragged_batches(generation: dict[str, Any], attention: str) -> None:
    """Prompts of no, one and two images."""
    check_same(llava(attention), batch([prompt(*facts) for facts in ANY_IMAGES]), None, **generation)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("generation", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_together_with_shared_prefixes(dtype: torch.dtype, generation: dict[str, Any], attention: str) -> None:
    check_same(llava(attention).to(dtype), together(), PREFIX, **generation)


@pytest.mark.parametrize("prefix", [PREFIX, None], ids=["with prefixes", "without"])
@torch.no_grad()
def test_a_layer_runs_once_for_all_methods(prefix: SharedPrefix | None) -> None:
    model, trunk, inputs = llava(), Trunk(), together()
    config, text = model.config.text_config, model.model.language_model
    rows, length = inputs["input_ids"].shape
    whole = rows * length
    if prefix is not None:
        whole = len(prefix.unique) * prefix.length + rows * (length - prefix.length)
    tokens = counted([layer.self_attn.o_proj for layer in text.layers])
    pruned = Counter[int]()  # tokens of layers behind a first stage
    for method in in_order([*(each for each in LAYER_METHODS if each[0] not in WHOLE), ("vanilla", {})]):
        before = tokens.copy()
        with ae.pruned(model, method, prefix=prefix, trunk=trunk):
            model(**inputs, past_key_values=DynamicCache(config=config))
        behind = range(first_stage(method) + 1, LAYERS)
        pruned.update({layer: tokens[layer] - before[layer] for layer in behind})
    assert [tokens[layer] - pruned[layer] for layer in range(LAYERS)] == [whole] * LAYERS


@pytest.mark.parametrize("family", ["llama", "mistral", "mistral with a window", "qwen2", "qwen3"])
@torch.no_grad()
def test_bare_decoders(family: str) -> None:
    """A cache that slides cannot be handed what was computed: there every method computes for itself."""
    window: dict[str, Any] = {}
    if "mistral" in family:
        window = {"sliding_window": 60 if "window" in family else None}
    model, trunk = decoder(family.split()[0], **window), Trunk()
    embeds = torch.randn(2, 80, 32, generator=torch.Generator().manual_seed(1))
    is_vision = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    is_vision[:, 5:69] = True
    for method in in_order([*LAYER_METHODS, ("vanilla", {})]):
        found = []
        for shared in (None, trunk):
            with ae.pruned(model, method, vision_mask=is_vision, trunk=shared) as trace:
                out = model(inputs_embeds=embeds, past_key_values=DynamicCache(config=model.config))
            found.append((out.logits[:, -1], dict(trace.kept)))
        (alone, kept), (logits, shared_kept) = found
        assert torch.equal(logits, alone), method
        assert all(torch.equal(shared_kept[layer], kept[layer]) for layer in kept), method
    assert trunk.height == (0 if "window" in family else 4)


@torch.no_grad()
def test_nothing_waits_for_the_device() -> None:
    model, trunk, inputs = llava(), Trunk(), together()
    for method in in_order([*LAYER_METHODS, ("vanilla", {})]):
        with ae.pruned(model, method, prefix=PREFIX, trunk=trunk), NoSync() as mode:
            model(**inputs, past_key_values=DynamicCache(config=model.config.text_config))
        assert mode.copies == 0


def test_memory_is_that_of_its_layers_and_two_hidden_states() -> None:
    model, inputs = llava(), batch([prompt(*facts) for facts in ANY_IMAGES])
    rows, length = inputs["input_ids"].shape
    hidden = rows * length * SIZES["hidden_size"] * 4
    layer = 2 * rows * length * SIZES["num_key_value_heads"] * SIZES["head_dim"] * 4
    trunk = Trunk()
    for method in in_order([*LAYER_METHODS, ("vanilla", {})]):
        answers(model, method, inputs, trunk=trunk)
        assert trunk.height * layer < trunk.bytes < LAYERS * layer + 2 * hidden
    assert trunk.height * layer + 2 * hidden < trunk.bytes < (trunk.height + 1) * layer + 2 * hidden


def test_one_that_has_grown_too_high_is_not_used() -> None:
    """Methods in another order are answered all the same."""
    model, inputs, trunk = llava(), together(), Trunk()
    late, early = ae.get_method("fastv")(schedule="3:9"), ae.get_method("fastv")(schedule="1:9")
    answers(model, late, inputs, prefix=PREFIX, trunk=trunk)
    shared = answers(model, early, inputs, prefix=PREFIX, trunk=trunk)
    assert torch.equal(shared[1], answers(model, early, inputs, prefix=PREFIX)[1])
    assert trunk.height == 4


@pytest.mark.parametrize("layer", [2, 3, 5])
def test_an_error_on_the_way_leaves_it_as_it_was(layer: int) -> None:
    model, inputs, trunk = llava(), together(), Trunk()
    early, late = ae.get_method("fastv")(schedule="1:9"), ae.get_method("fastv")(schedule="3:9")

    def stop(*_: Any) -> None:
        raise RuntimeError("out of memory")

    answers(model, early, inputs, prefix=PREFIX, trunk=trunk)
    mlp = model.model.language_model.layers[layer].mlp.register_forward_hook(stop)
    with pytest.raises(RuntimeError, match="out of memory"):
        answers(model, late, inputs, prefix=PREFIX, trunk=trunk)
    mlp.remove()
    assert trunk.height == (4 if layer == 5 else 2)
    for method in (late, ae.get_method("vanilla")()):
        shared = answers(model, method, inputs, prefix=PREFIX, trunk=trunk)
        assert torch.equal(shared[1], answers(model, method, inputs, prefix=PREFIX)[1])


@torch.no_grad()
def test_a_batch_after_one_that_failed_shares_nothing() -> None:
    """In the same block, with another cache."""
    model, inputs, method = llava(), together(), ae.get_method("fastv")(schedule="1:9")
    config, trunk = model.config.text_config, Trunk()
    layers = model.model.language_model.layers
    answers(model, method, inputs, trunk=trunk)
    with ae.pruned(model, method, trunk=trunk):
        handle = layers[3].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(**inputs, past_key_values=DynamicCache(config=config))
        handle.remove()
        logits = model(**inputs, past_key_values=DynamicCache(config=config)).logits[:, -1]
    with ae.pruned(model, method):
        assert torch.equal(logits, model(**inputs, past_key_values=DynamicCache(config=config)).logits[:, -1])


def test_another_batch_s_is_refused() -> None:
    """One of other lengths at once, one of another token, or another image, before its answer is there."""
    model, method, trunk = llava(), ae.get_method("fastv")(schedule="1:9"), Trunk()
    answers(model, method, batch([prompt(5, 1, 7, 1)]), trunk=trunk)
    with pytest.raises(ValueError, match="trunk= is of another batch"):
        answers(model, method, batch([prompt(5, 1, 8, 1)]), trunk=trunk)
    one_token, one_image = prompt(5, 1, 7, 1), prompt(5, 1, 7, 1)
    one_token["input_ids"][0, -1] = 2
    one_image["pixel_values"] = prompt(5, 1, 7, 2)["pixel_values"]
    for other in (one_token, one_image):
        with pytest.raises(PruningError, match="trunk= is of another batch"):
            answers(model, method, batch([other]), trunk=trunk)
    two, turned, trunk = prompt(5, 2, 7, 1), prompt(5, 2, 7, 1), Trunk()
    turned["pixel_values"] = turned["pixel_values"].flip(0)
    answers(model, method, batch([two]), trunk=trunk)
    with pytest.raises(PruningError, match="trunk= is of another batch"):
        answers(model, method, batch([turned]), trunk=trunk)


def test_layers_are_the_model_s_own_again() -> None:
    model, trunk, inputs = llava(), Trunk(), together()
    layers = model.model.language_model.layers
    before = [dict(vars(layer)) for layer in layers]
    answers(model, ae.get_method("fastv")(schedule="1:9"), inputs, trunk=trunk)
    with pytest.raises(RuntimeError, match="stop"), ae.pruned(model, ae.get_method("vanilla")(), trunk=trunk):
        raise RuntimeError("stop")
    assert [dict(vars(layer)) for layer in layers] == before
