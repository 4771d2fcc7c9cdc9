"""Uses that would give silently wrong tokens are refused before anything runs."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from adaptinfer_eval.pruning.releases import cache_of

_CACHES = "use the default dynamic cache (no cache_implementation, no StaticCache)"


def check_mode(model: nn.Module) -> None:
    if model.training:
        raise ValueError("pruning is for inference and the model is in training mode: call model.eval() first")


def check_cache(cache: Any) -> None:
    if cache is not None and getattr(cache, "is_compileable", False):
        raise ValueError(f"a static cache cannot hold layers of different lengths: {_CACHES}")


def check_generate(model: PreTrainedModel, kwargs: dict[str, Any]) -> None:
    """Refuse the options of `generate` that a pruned prefill cannot serve."""

    def option(name: str) -> Any:
        if kwargs.get(name) is not None:
            return kwargs[name]
        config = kwargs.get("generation_config") or model.generation_config
        return getattr(config, name, None)

    check_mode(model)
    check_cache(cache_of(kwargs))
    if "static" in str(option("cache_implementation")) or option("cache_implementation") == "hybrid":
        raise ValueError(f"a static cache cannot hold layers of different lengths: {_CACHES}")
    if option("prefill_chunk_size") is not None:
        raise ValueError("chunked prefill would prune each chunk by itself: leave prefill_chunk_size out")
    if kwargs.get("assistant_model") is not None or option("prompt_lookup_num_tokens") is not None:
        raise ValueError(
            "assisted decoding feeds several tokens at once to layers of different lengths: "
            "leave assistant_model and prompt_lookup_num_tokens out"
        )
