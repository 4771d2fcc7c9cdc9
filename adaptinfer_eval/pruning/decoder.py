"""Follows a decoder through its calls: which is a prefill, which a decode step, and of which prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from adaptinfer_eval.backbones.anatomy import Anatomy
from adaptinfer_eval.methods.seen import per_sample
from adaptinfer_eval.pruning.deepstack import Removable
from adaptinfer_eval.pruning.given import Given
from adaptinfer_eval.pruning.guards import check_cache, check_mode
from adaptinfer_eval.pruning.images import Entered, ImagePruner
from adaptinfer_eval.pruning.language import LayerPruner
from adaptinfer_eval.pruning.leaving import going_on, picked, put_back
from adaptinfer_eval.pruning.observer import Observer
from adaptinfer_eval.pruning.prefix import Shared, SharedPrefix, compute_prefix, with_positions
from adaptinfer_eval.pruning.prompt import Prompt, read_prompt, sizes_of
from adaptinfer_eval.pruning.proof import Lengths, Proof, broken
from adaptinfer_eval.pruning.releases import CACHE, cache_of
from adaptinfer_eval.pruning.steps import lengths_of
from adaptinfer_eval.pruning.tower import TowerPruner
from adaptinfer_eval.pruning.trace import Trace
from adaptinfer_eval.pruning.trunk import Climb

Kwargs = dict[str, Any]


@dataclass(frozen=True)
class Prefilled:
    """What decode steps need to know: what went in of the prompt, and what became of that; tokens cached per layer.

    None where it was left alone. `rows`: of the batch, those that the cache holds.
    """

    entered: Entered | None
    run: Any
    cached: Sequence[int]
    rows: Sequence[int] = ()

    def of_rows(self, places: Sequence[int]) -> Prefilled:
        """The same, from now on, of some of its rows alone."""
        index = torch.tensor(places)
        entered = None if self.entered is None else self.entered.of_rows(index)
        run = None if self.run is None else self.run.of_rows(index)
        return Prefilled(entered, run, self.cached, [self.rows[place] for place in places])


_PIXELS = ("pixel_values", "pixel_values_videos")
_TEXT_ARGUMENTS = ("input_ids", "attention_mask", "position_ids", CACHE, "inputs_embeds")


class DecoderWatch:
    """Finds the vision tokens of each prompt and sets `layers` or `images` to work on it."""

    def __init__(
        self,
        anatomy: Anatomy,
        vision_mask: Tensor | None,
        trace: Trace,
        layers: LayerPruner | Observer | None,
        images: ImagePruner | None,
        prefix: SharedPrefix | None,
        tower: TowerPruner | None,
        said: Given,
        climb: Climb | None = None,
    ) -> None:
        self.anatomy, self.given_mask, self.prefix, self.trace = anatomy, vision_mask, prefix, trace
        self.layers, self.images, self.tower, self.said = layers, images, tower, said
        self.climb = climb  # of the block's first batch
        self.climbing: Climb | None = None  # in the prefill that is running
        self.proof = Proof(anatomy.layers, anatomy.attending)
        self.given: Mapping[str, Any] = {}  # to the multimodal module, in the forward that is running
        self.prefilling = False
        self.forwards = 0  # of the decoder, in one call of the model
        self.batch = 0  # rows of the decode step that is running, where some have left
        self.cache: Any = None  # of the forward that is running
        # What is known of a prompt lives as long as its cache, and no longer.
        self.states: WeakKeyDictionary[Any, Prefilled] = WeakKeyDictionary()
        self.state = Prefilled(None, None, ())

    def hook(self, model: nn.Module) -> list[Removable]:
        """Follow `model` and the decoder in it."""
        handles: list[Removable] = []
        text = self.anatomy.text
        assert text is not None
        if model is not text:
            handles.append(model.register_forward_pre_hook(lambda *_: self._before_model()))
            handles.append(model.register_forward_hook(lambda *_: self._after_model()))
        if self.anatomy.multimodal is not None:
            hook = self._before_multimodal
            handles.append(self.anatomy.multimodal.register_forward_pre_hook(hook, with_kwargs=True))
        handles.append(text.register_forward_pre_hook(self._before_text, with_kwargs=True))
        handles.append(text.register_forward_hook(self._after_text))
        handles.append(self.anatomy.layers[0].register_forward_pre_hook(self._bind_cache, with_kwargs=True))
        if self.images is not None:
            handles += self.images.hook()
        if self.layers is not None:
            handles += self.layers.hook()
        if self.climb is not None:
            handles += self.climb.hook()
        return handles

    def _before_model(self) -> None:
        self.forwards = 0

    def _after_model(self) -> None:
        if not self.forwards or self.proof.planned is not None:
            raise broken("the decoder was not seen to run, or not to its end")

    def _before_multimodal(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> None:
        named = {**dict(zip(("input_ids", "pixel_values"), args, strict=False)), **kwargs}
        self.given = named
        self.expect_images(named)

    def expect_images(self, named: Kwargs) -> None:
        """The images of `named`, arguments of `generate` or of a multimodal forward, are encoded next.

        `generate` encodes images before it runs the model. Tell the tower which of them are of one prompt: one look at
        the prompts, for a budget per prompt alone.
        """
        if self.images is not None and any(named.get(name) is not None for name in _PIXELS):
            self.images.forget()
        if self.tower is None or self.tower.method.per == "image" or named.get("pixel_values") is None:
            return
        ids = named.get("inputs") if named.get("input_ids") is None else named["input_ids"]
        if ids is None:
            return  # the tower will say so
        counts = self.anatomy.is_vision(ids).sum(1) // self.anatomy.image_tokens
        self.tower.expect(counts.tolist())

    def _before_text(self, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs) -> tuple[Any, Kwargs]:
        kwargs = {**dict(zip(_TEXT_ARGUMENTS, args, strict=False)), **kwargs}
        # What a multimodal module makes of its mask may be one for each type of layer.
        cache, mask = cache_of(kwargs), (self.given if self.anatomy.follows else kwargs).get("attention_mask")
        check_mode(module)
        check_cache(cache)
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise ValueError("pruning builds its own masks: pass a 2-D attention_mask (B, L), or none")
        tokens = kwargs["input_ids"] if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]
        cached = 0 if cache is None else cache.get_seq_length()
        self.prefilling, self.cache = cached == 0, cache
        self.forwards += 1
        if self.prefilling:
            return (), self._prefill(tokens, mask, kwargs)
        if tokens.shape[1] != 1:
            raise ValueError(
                f"{tokens.shape[1]} tokens for a cache that is not empty: chunked prefill, assisted decoding and "
                "further turns on a pruned cache are not supported; give the whole prompt at once"
            )
        if cache not in self.states:
            raise ValueError("this cache was not filled inside the block: run the prefill inside it too")
        self.state = self.states[cache]
        kwargs = self._leave(cache, len(tokens), kwargs)
        steps = cached - self.state.cached[self.anatomy.attending[0]] + 1  # caches count by the first that attends
        self.proof.plan(Lengths([1] * len(self.state.cached), [length + steps for length in self.state.cached]))
        if self.layers is not None:
            self.layers.resume(self.state.run, cached)
        if self.images is not None:
            kwargs = self.images.decode(self.state.entered, cached, kwargs)
        return (), kwargs

    def _leave(self, cache: Any, batch: int, kwargs: Kwargs) -> Kwargs:
        """Let rows whose answers are over leave `cache`; returns the arguments for those that go on."""
        self.batch = 0
        if self.said.ended is None:
            return kwargs
        if len(ended := self.said.ended()) != batch:
            raise ValueError(f"ended= tells of {len(ended)} answers, and {batch} are decoded: that is another batch")
        if len(places := going_on(self.state.rows, ended, cache)) < len(self.state.rows):
            cache.batch_select_indices(torch.tensor(places))
            self.state = self.states[cache] = self.state.of_rows(places)
        if len(self.state.rows) == batch:
            return kwargs
        self.batch = batch
        return picked(kwargs, torch.tensor(self.state.rows), batch)

    def _prefill(self, tokens: Tensor, mask: Tensor | None, kwargs: Kwargs) -> Kwargs:
        prompt = self._read(tokens, mask)
        self.trace.kept.clear()
        self.trace.groups.clear()
        self.trace.images = prompt.images
        self.trace.schedules = ["none" if images else "no image" for images in prompt.images]
        self.trace.entering = torch.tensor(prompt.vision)[:, None].repeat(1, len(self.anatomy.layers))
        shared, prefix = None, self.prefix if self.anatomy.shares_prefixes else None
        if prefix is not None:
            kwargs = with_positions(prompt, kwargs)
            prefix = prefix if self._can_share(kwargs) else None
        entered = None
        if self.images is not None:
            kwargs, entered = self.images.prefill(prompt, kwargs, prefix)
            prompt = prompt if entered is None else entered.prompt(prompt)
            prefix = None if entered is None else entered.prefix
        if self.climbing is not None:
            self.climbing.end()  # of a prefill that ended in an error
        self.climbing = self._may_climb(prompt, kwargs, prefix.length if prefix else 0)
        if prefix is not None:
            kwargs, shared = self._share(prompt, prefix, kwargs)
        start = self.climbing.begin(prompt, kwargs, shared) if self.climbing else 0
        self.prefix = self.climb = None  # another prompt would have another
        run = self.layers.begin(prompt, shared) if self.layers is not None else None
        self.said.forget()
        lengths = lengths_of(
            entered.left.length if entered else tokens.shape[1],
            prompt,
            run.steps if run else {},
            len(self.anatomy.layers),
            prefix=shared.length if shared else 0,
        )
        lengths = replace(lengths, start=start)
        self.state, self.batch = Prefilled(entered, run, lengths.cached, range(len(tokens))), 0
        self.proof.plan(lengths)
        return kwargs

    def _can_share(self, kwargs: Kwargs) -> bool:
        """Whether the prefixes can go through the decoder by themselves, and a cache can hand them on."""
        cache = cache_of(kwargs)
        plain = type(cache) is DynamicCache and not cache.offloading and not any(cache.is_sliding)
        plain = plain and not (self.layers and self.layers.needs_whole_prompts)
        return plain and kwargs.get("inputs_embeds") is not None

    def _may_climb(self, prompt: Prompt, kwargs: Kwargs, prefix: int) -> Climb | None:
        """The way up the trunk, where there is one for these prompts, of which `prefix` tokens are shared."""
        embeds = kwargs.get("inputs_embeds")
        if self.climb is None or embeds is None or not any(prompt.vision) or not self.climb.can(cache_of(kwargs)):
            return None
        self.climb.same_batch(prompt, self.given.get("input_ids"), embeds, prefix)
        return self.climb

    def _share(self, prompt: Prompt, prefix: SharedPrefix, kwargs: Kwargs) -> tuple[Kwargs, Shared]:
        layers, last = self.anatomy.layers, len(self.anatomy.layers) - 1
        if self.layers is not None:
            self.layers.forget()  # the prefixes by themselves are not pruned
            last = min(self.layers.stages, default=last)
        start, begun = self.climbing.open(cache_of(kwargs), prefix.length) if self.climbing else (0, None)
        alone = [prefix.length] * (last + 1)
        self.proof.plan(Lengths(alone, alone, start))
        kwargs, shared = compute_prefix(self.anatomy.text, layers[: last + 1], prompt, prefix, kwargs, start, begun)
        self.proof.check()
        return kwargs, shared

    def _bind_cache(self, _module: nn.Module, _args: Any, kwargs: Kwargs) -> None:
        """Here the cache exists even when the decoder makes it itself."""
        cache = cache_of(kwargs)
        if self.prefilling and cache is not None:
            self.states[cache], self.cache = self.state, cache

    def _after_text(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        """Nobody has seen the output yet: it is what the method makes of the prompt, or an error."""
        parts = output.values() if isinstance(output, Mapping) else output
        filled = next((part for part in parts if isinstance(part, Cache)), None)
        if filled is not None and (filled is not self.cache or filled not in self.states):
            raise broken("the decoder filled a cache that it or its layers were not seen to be given")
        if self.climbing is not None:
            self.climbing.end()
        if self.prefilling and self.layers is not None:
            self.layers.check()
        self.proof.check(self.cache)
        return put_back(output, torch.tensor(self.state.rows), self.batch) if self.batch else output

    def observe(
        self,
        original: Callable[..., Any],
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        kwargs: Kwargs,
    ) -> Any:
        """Handler of the decoder's attention function."""
        if self.layers is None or not self.layers.ahead.running:
            self.proof.saw(module, query, key, kwargs.get("sliding_window"))
            if self.climbing is not None:
                self.climbing.saw(module, query, attention_mask, kwargs)
        if self.layers is None:
            return original(module, query, key, value, attention_mask, **kwargs)
        return self.layers.observe(original, module, query, key, value, attention_mask, kwargs)

    def _images(self, ids: Tensor) -> Tensor:
        """How many each prompt has, (B,): as was said, or as its tokens tell."""
        given = self.said.images
        if given is None or len(ids) % len(given):
            return self.anatomy.images(ids)
        return per_sample(given, ids.device)[:, 0].repeat_interleave(len(ids) // len(given), 0)

    def _read(self, tokens: Tensor, attention_mask: Tensor | None) -> Prompt:
        ids, known = self.given.get("input_ids"), self.anatomy.vision_ids
        seen = self.given_mask if ids is None or not known else self.anatomy.is_vision(ids)
        if seen is None:
            raise ValueError("inputs_embeds do not say where the vision tokens are: pass vision_mask= to pruned()")
        rows, length = tokens.shape[:2]
        if seen.ndim != 2 or rows % seen.shape[0] or seen.shape[1] != length:
            raise ValueError(
                f"vision_mask is {tuple(seen.shape)}, the prompt {rows} × {length}: they must agree, and without a "
                "cache (use_cache=False) a prompt cannot come back with its answer so far"
            )

        def for_rows(of_prompts: Tensor) -> Tensor:
            # Beam search repeats every prompt.
            return of_prompts.to(tokens.device).repeat_interleave(rows // len(of_prompts), 0)

        images = None if ids is None or not known else for_rows(self._images(ids))
        prompt = read_prompt(for_rows(seen.bool()), attention_mask, self.anatomy.image_tokens, images)
        follow = {name: self.given[name] for name in self.anatomy.follows if self.given.get(name) is not None}
        prompt = replace(prompt, follow=follow)
        if self.images is None or not any(prompt.vision):
            return prompt
        numbers = None if ids is None or not known else for_rows(self.anatomy.image_numbers(ids))
        return replace(prompt, sizes=sizes_of(prompt, self.anatomy.image_tokens, numbers, self.anatomy.alike))
