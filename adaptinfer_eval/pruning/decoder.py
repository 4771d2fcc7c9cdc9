"""Follows a decoder through its calls: which is a prefill, which a decode step, and of which prompt."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache

from adaptinfer_eval.pruning.anatomy import Anatomy
from adaptinfer_eval.pruning.guards import check_cache, check_mode
from adaptinfer_eval.pruning.images import ImagePruner
from adaptinfer_eval.pruning.language import LayerPruner
from adaptinfer_eval.pruning.prefix import Shared, SharedPrefix, compute_prefix
from adaptinfer_eval.pruning.prompt import Prompt, read_prompt
from adaptinfer_eval.pruning.releases import CACHE, cache_of
from adaptinfer_eval.pruning.trace import Trace

Kwargs = dict[str, Any]
_TEXT_ARGUMENTS = ("input_ids", "attention_mask", "position_ids", CACHE, "inputs_embeds")


class DecoderWatch:
    """Finds the vision tokens of each prompt and sets `layers` or `images` to work on it."""

    def __init__(
        self,
        anatomy: Anatomy,
        vision_mask: Tensor | None,
        trace: Trace,
        layers: LayerPruner | None,
        images: ImagePruner | None,
        prefix: SharedPrefix | None,
    ) -> None:
        self.anatomy, self.given_mask, self.prefix, self.trace = anatomy, vision_mask, prefix, trace
        self.layers, self.images = layers, images
        self.input_ids: Tensor | None = None
        self.prefilling = False
        # What is known of a prompt lives as long as its cache, and no longer.
        self.states: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self.state: Any = None

    def hook(self) -> list[RemovableHandle]:
        handles = []
        if self.anatomy.multimodal is not None:
            hook = self._before_multimodal
            handles.append(self.anatomy.multimodal.register_forward_pre_hook(hook, with_kwargs=True))
        assert self.anatomy.text is not None
        handles.append(self.anatomy.text.register_forward_pre_hook(self._before_text, with_kwargs=True))
        handles.append(self.anatomy.layers[0].register_forward_pre_hook(self._bind_cache, with_kwargs=True))
        if self.layers is not None:
            handles += self.layers.hook()
        return handles

    def _before_multimodal(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        self.input_ids = args[0] if args else kwargs.get("input_ids")

    def _before_text(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> tuple[Any, Kwargs]:
        kwargs = {**dict(zip(_TEXT_ARGUMENTS, args, strict=False)), **kwargs}
        cache, mask = cache_of(kwargs), kwargs.get("attention_mask")
        check_mode(module)
        check_cache(cache)
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise ValueError("pruning builds its own masks: pass a 2-D attention_mask (B, L), or none")
        tokens = kwargs["input_ids"] if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
        cached = 0 if cache is None else cache.get_seq_length()
        self.prefilling = cached == 0
        if self.prefilling:
            return (), self._prefill(tokens, mask, kwargs)
        if tokens.shape[1] != 1:
            raise ValueError(
                f"{tokens.shape[1]} tokens for a cache that is not empty: chunked prefill, assisted decoding and "
                "further turns on a pruned cache are not supported; give the whole prompt at once"
            )
        if cache not in self.states:
            raise ValueError("this cache was not filled inside the block: run the prefill inside it too")
        if self.layers is not None:
            self.layers.resume(self.states[cache], cached)
        if self.images is not None:
            kwargs = self.images.decode(self.states[cache], cached, kwargs)
        return (), kwargs

    def _prefill(self, tokens: Tensor, mask: Tensor | None, kwargs: Kwargs) -> Kwargs:
        prompt = read_prompt(self._vision_mask(tokens), mask)
        self.trace.kept.clear()
        self.trace.entering = torch.tensor(prompt.vision)[:, None].repeat(1, len(self.anatomy.layers))
        shared = None
        if self.prefix is not None and self._can_share(kwargs):
            kwargs, shared = self._share(prompt, self.prefix, kwargs)
        self.prefix = None  # another prompt would have another
        if self.layers is not None:
            self.state = self.layers.begin(prompt, shared)
        if self.images is not None:
            kwargs, self.state = self.images.prefill(prompt, kwargs)
        return kwargs

    def _can_share(self, kwargs: Kwargs) -> bool:
        """Whether the prefixes go through the decoder as they are, and a cache can hand them on."""
        cache = cache_of(kwargs)
        plain = type(cache) is DynamicCache and not cache.offloading and not any(cache.is_sliding)
        return plain and self.images is None and kwargs.get("inputs_embeds") is not None

    def _share(self, prompt: Prompt, prefix: SharedPrefix, kwargs: Kwargs) -> tuple[Kwargs, Shared]:
        layers, last = self.anatomy.layers, len(self.anatomy.layers) - 1
        if self.layers is not None:
            self.layers.run = None  # the prefixes by themselves are not pruned
            last = min(self.layers.stages, default=last)
        return compute_prefix(self.anatomy.text, layers[: last + 1], prompt, prefix, kwargs)

    def _bind_cache(self, _module: nn.Module, _args: Any, kwargs: Kwargs) -> None:
        """Here the cache exists even when the decoder makes it itself."""
        cache = cache_of(kwargs)
        if self.prefilling and cache is not None:
            self.states[cache] = self.state

    def _vision_mask(self, tokens: Tensor) -> Tensor:
        ids, image_token = self.input_ids, self.anatomy.image_token
        mask = self.given_mask if ids is None or image_token is None else ids == image_token
        if mask is None:
            raise ValueError("inputs_embeds do not say where the vision tokens are: pass vision_mask= to pruned()")
        rows, length = tokens.shape[:2]
        if mask.ndim != 2 or rows % mask.shape[0] or mask.shape[1] > length:
            raise ValueError(f"vision_mask is {tuple(mask.shape)}, the prompt {rows} × {length}: they must agree")
        # Beam search repeats every prompt; without a cache the prompt comes back with its answer so far.
        mask = mask.to(tokens.device, torch.bool).repeat_interleave(rows // mask.shape[0], 0)
        return F.pad(mask, (0, length - mask.shape[1]))
