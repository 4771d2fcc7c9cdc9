"""A method that was not carried out is an error: tests break transformers' side in ways that a release might."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from loguru import logger
from tiny_models import METHODS, batch, decoder, llava, prompt
from torch import nn
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import adaptinfer_eval as ae
from adaptinfer_eval.pruning import releases
from adaptinfer_eval.pruning.proof import PruningError

LANGUAGE = [(name, options) for name, options in METHODS if name != "tome"]


def rename_the_cache_of(module: Any) -> None:
    """From here on `module` takes its cache under a name that nobody has seen yet."""
    call: Any = module.forward

    def rename(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {("memory" if name == releases.CACHE else name): value for name, value in kwargs.items()}

    def forward(*args: Any, memory: Any = None, **kwargs: Any) -> Any:
        return call(*args, **kwargs, **{releases.CACHE: memory})

    module.register_forward_pre_hook(rename, with_kwargs=True)
    module.forward = forward


def rename_the_cache(text: Any) -> None:
    """The decoder is handed its cache under a new name."""
    rename_the_cache_of(text)


def rename_the_cache_of_layers(text: Any) -> None:
    """Only the layers are."""
    for layer in text.layers:
        rename_the_cache_of(layer)


def call_other_layers(text: Any) -> None:
    """The decoder runs layers of another name; `layers` is still there."""
    text.blocks = copy.deepcopy(text.layers)
    forward = type(text).forward

    def run_blocks(self: Any, *args: Any, **kwargs: Any) -> Any:
        layers, self.layers = self.layers, self.blocks
        try:
            return forward(self, *args, **kwargs)
        finally:
            self.layers = layers

    text.forward = MethodType(run_blocks, text)


class Quiet(nn.Module):
    """A module whose hooks are not called."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        if hasattr(inner, "self_attn"):
            self.self_attn = inner.self_attn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def call_no_layer_hooks(text: Any) -> None:
    """Layers are called by their forward."""
    text.layers = nn.ModuleList([Quiet(layer) for layer in text.layers])


def call_no_decoder_hooks(text: Any) -> None:
    """The decoder is called by its forward."""
    text.__class__ = type(type(text).__name__, (type(text),), {"__call__": lambda self, *a, **k: self.forward(*a, **k)})


def attend_elsewhere(text: Any) -> None:
    """Attention is no longer looked up under the implementation's name."""
    text.layers[3].self_attn.config = copy.deepcopy(text.config)
    text.layers[3].self_attn.config._attn_implementation = "eager"


class Forgetful(DynamicCache):
    """Says that it holds one token less from layer 5 on."""

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return super().get_seq_length(layer_idx) - (layer_idx > 4)


BREAKS = [
    rename_the_cache,
    rename_the_cache_of_layers,
    call_other_layers,
    call_no_layer_hooks,
    call_no_decoder_hooks,
    attend_elsewhere,
]


@pytest.mark.parametrize("break_it", BREAKS, ids=lambda function: function.__name__)
@pytest.mark.parametrize(("name", "options"), LANGUAGE)
@torch.no_grad()
def test_what_a_release_might_change_is_an_error_and_no_answer(
    name: str, options: dict[str, Any], break_it: Callable[[Any], None]
) -> None:
    model, inputs = llava(), batch([prompt(5, 1, 7, 1), prompt(3, 2, 9, 2)])
    break_it(model.model.language_model)
    with pytest.raises(PruningError, match="transformers"), ae.pruned(model, ae.get_method(name)(**options)):
        model.generate(**inputs, max_new_tokens=3)


@pytest.mark.parametrize(("name", "options"), LANGUAGE)
@torch.no_grad()
def test_a_cache_of_other_lengths_is_an_error(name: str, options: dict[str, Any]) -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    with (
        pytest.raises(PruningError, match="the cache of layer 5 holds"),
        ae.pruned(model, ae.get_method(name)(**options)),
    ):
        model(**inputs, past_key_values=Forgetful(config=model.config.text_config))


@torch.no_grad()
def test_a_cache_that_grows_in_some_layers_only_is_an_error() -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    with ae.pruned(model, ae.get_method("adaptinfer")(schedule="1:30,3:12,5:4")):
        out = model(**inputs, use_cache=True)
        lost = out.past_key_values.layers[6]
        lost.keys, lost.values = lost.keys[:, :, 1:], lost.values[:, :, 1:]
        with pytest.raises(PruningError, match="layer 6 was to compute 1 tokens"):
            model(input_ids=torch.tensor([[3]]), past_key_values=out.past_key_values)


@torch.no_grad()
def test_a_tower_that_does_not_merge_is_an_error() -> None:
    tower = llava().model.vision_tower
    layer = tower.encoder.layers[1] if hasattr(tower, "encoder") else tower.vision_model.encoder.layers[1]
    layer.layer_norm2 = Quiet(layer.layer_norm2)
    with ae.pruned(tower, ae.get_method("tome")(budget=40)), pytest.raises(PruningError, match="merged in"):
        tower(torch.randn(1, 3, 32, 32))


def test_another_name_of_the_attention_module_is_an_error_at_once() -> None:
    model = decoder("llama")
    for layer in model.model.layers:
        layer.attention = layer.self_attn
        del layer.self_attn
    mask = torch.ones(1, 8, dtype=torch.bool)
    with pytest.raises(PruningError, match="LlamaDecoderLayer has no self_attn"):
        ae.pruned(model, ae.get_method("fastv")(schedule="1:3"), vision_mask=mask).__enter__()


@pytest.mark.parametrize(("installed", "said"), [("5.24.0", 0), ("5.24.3", 0), ("5.25.0.dev0", 1), ("6.0.1", 1)])
def test_a_release_newer_than_any_tested_says_so_once(
    installed: str, said: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.__version__", installed)
    monkeypatch.setattr(releases, "NEWEST_TESTED", "5.24")
    lines: list[str] = []
    handler = logger.add(lambda line: lines.append(str(line)), format="{message}")
    releases.say_if_untested.cache_clear()
    try:
        for _ in range(2):
            with ae.pruned(llava(), ae.get_method("vanilla")()):
                pass
    finally:
        logger.remove(handler)
        releases.say_if_untested.cache_clear()
    assert len(lines) == said
    assert all(line.count("\n") == 1 and installed in line for line in lines)


@pytest.mark.parametrize("name", sorted({"past_key_values", releases.CACHE}))
@torch.no_grad()
def test_either_name_of_the_cache_will_do(name: str) -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    method = ae.get_method("adaptinfer")(schedule="1:30,3:12,5:4")
    with ae.pruned(model, method) as trace:
        want = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        kept = {layer: tokens.tolist() for layer, tokens in trace.kept.items()}
        cache = DynamicCache(config=model.config.text_config)
        out = model(**inputs, **{name: cache})
        assert {layer: tokens.tolist() for layer, tokens in trace.kept.items()} == kept
        tokens = [int(out.logits[0, -1].argmax())]
        for _ in range(2):
            out = model(input_ids=torch.tensor([tokens[-1:]]), **{name: cache})
            tokens.append(int(out.logits[0, -1].argmax()))
    assert tokens == want[0, inputs["input_ids"].shape[1] :].tolist()


def test_the_attention_functions_are_those_of_transformers_again() -> None:
    before = dict(ALL_ATTENTION_FUNCTIONS)
    model = llava()
    call_other_layers(model.model.language_model)
    with pytest.raises(PruningError), ae.pruned(model, ae.get_method("vanilla")()), torch.no_grad():
        model(**prompt(5, 1, 7, 1))
    assert dict(ALL_ATTENTION_FUNCTIONS) == before
