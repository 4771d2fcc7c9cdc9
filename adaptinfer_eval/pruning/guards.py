"""Uses that would give silently wrong tokens are refused before anything runs."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode

from adaptinfer_eval.pruning.releases import cache_of

_MODES = (
    GenerationMode.GREEDY_SEARCH,
    GenerationMode.SAMPLE,
    GenerationMode.BEAM_SEARCH,
    GenerationMode.BEAM_SAMPLE,
)
_CACHES = "use the default dynamic cache (no cache_implementation, no StaticCache)"


def check_mode(model: nn.Module) -> None:
    if model.training:
        raise ValueError("pruning is for inference and the model is in training mode: call model.eval() first")


def check_cache(cache: Any) -> None:
    if cache is not None and getattr(cache, "is_compileable", False):
        raise ValueError(f"a static cache cannot hold layers of different lengths: {_CACHES}")


def check_generate(model: PreTrainedModel, kwargs: dict[str, Any]) -> None:
    """Refuse the options of `generate` that a pruned prefill cannot serve."""

    given = kwargs.get("generation_config")
    # As generate lays them over each other: its arguments, a configuration given to it, the checkpoint's own.
    config = copy.copy(model.generation_config)
    for name, value in {**(given.to_dict() if given else {}), **kwargs}.items():
        if value is not None:
            setattr(config, name, value)

    def option(name: str) -> Any:
        return getattr(config, name, None)

    check_mode(model)
    cache = cache_of(kwargs)
    check_cache(cache)
    if cache is not None and cache.get_seq_length():
        raise ValueError("the cache holds a prompt already, which would come twice: leave it out, or give a new one")
    if option("use_cache") is False:
        raise ValueError(
            "without a cache every step would prune anew, and the answer so far would choose with it: leave "
            "use_cache=False out (it may stand in the checkpoint's generation_config.json)"
        )
    if "static" in str(option("cache_implementation")) or kwargs.get("cache_implementation") == "hybrid":
        raise ValueError(f"a static cache cannot hold layers of different lengths: {_CACHES}")
    if option("prefill_chunk_size") is not None:
        raise ValueError("chunked prefill would prune each chunk by itself: leave prefill_chunk_size out")
    mode = config.get_generation_mode(kwargs.get("assistant_model"))
    if mode == GenerationMode.ASSISTED_GENERATION:
        raise ValueError(
            "assisted decoding feeds several tokens at once to layers of different lengths: "
            "leave assistant_model, prompt_lookup_num_tokens and their like out"
        )
    if mode not in _MODES or option("custom_generate") is not None:
        name = "a custom_generate" if mode in _MODES else mode.value.replace("_", " ")
        raise ValueError(
            f"{name} may read a prompt more than once, which would prune it anew: use greedy, sample or beam search"
        )
