"""Pruning inside the language model: hooks on the decoder layers of one unmodified model.

Hugging Face's forward stays in charge. A pre-hook on a layer hands it a shorter sequence and the mask and positions
that belong to it; the layer's K/V for the tokens it computed stay in the cache, so the cache gets shorter with depth.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from adaptinfer_eval.backbones.anatomy import Anatomy
from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.schedule import Schedule
from adaptinfer_eval.methods.seen import Attention, Embeddings, Rotary, gather_tokens, per_sample
from adaptinfer_eval.pruning.deepstack import Removable, added_deep
from adaptinfer_eval.pruning.lookahead import LookAhead, Seen
from adaptinfer_eval.pruning.masks import Masks, causal_mask, pattern_of
from adaptinfer_eval.pruning.prefix import Shared
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.proof import Doubts, attention_of, broken
from adaptinfer_eval.pruning.releases import cache_of
from adaptinfer_eval.pruning.rotation import Places, Rotation
from adaptinfer_eval.pruning.run import Run
from adaptinfer_eval.pruning.sequence import Segment, choose, first_segment, regroup, shorten
from adaptinfer_eval.pruning.stage import attended, last_rows, numbers, shown
from adaptinfer_eval.pruning.steps import say_once, steps_of
from adaptinfer_eval.pruning.trace import Trace

Kwargs = dict[str, Any]


class LayerPruner:
    """Applies one `LayerMethod` to the decoder of a model; `before_layer` is the pre-hook of its layers.

    `usual`: the schedule of a prompt as the model makes it. Others keep other numbers after the same layers.
    """

    def __init__(self, anatomy: Anatomy, method: LayerMethod, usual: Schedule, trace: Trace, doubts: Doubts) -> None:
        self.anatomy, self.method, self.trace, self.doubts = anatomy, method, trace, doubts
        self.layers = anatomy.layers
        self.plan = functools.cache(functools.partial(method.resolved, len(self.layers)))
        self.stages = {stage.layer for stage in usual}
        ahead = 1 if method.looks_ahead else 0
        watched = self.stages if method.attends else ()
        self.observed = {attention_of(self.layers[layer + ahead]) for layer in watched}
        self.needs_whole_prompts = method.queries == "all"  # rows of vision tokens, which a prefix has once for all
        self.ahead = LookAhead(self.observed if method.looks_ahead else ())
        if method.merged_count(method.official_tokens):
            self._check_merging(axes=3 if anatomy.several_axes else 1)
        self.rotation = Rotation(anatomy.text)
        self.masks = Masks(anatomy)
        self.run: Run | None = None

    def hook(self) -> list[Removable]:
        handles: list[Removable] = [*self.ahead.hook(), self.rotation.hook()]
        handles += added_deep(self.anatomy.text, self._segment)
        for index, layer in enumerate(self.layers):
            before_layer = functools.partial(self.before_layer, index)
            handles.append(layer.register_forward_pre_hook(before_layer, with_kwargs=True))
        return handles

    # Prompt by prompt --------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """What runs now is not to be pruned."""
        self.run = None

    def begin(self, prompt: Prompt, shared: Shared | None = None) -> Run | None:
        """Get ready for the prefill of `prompt`; None when it has no vision token."""
        self.run = None
        self.ahead.keep(None)
        if any(prompt.vision):
            ends_with_image = any(v and not t for v, t in zip(prompt.vision, prompt.text_after, strict=True))
            if self.method.queries in ("text", "all") and ends_with_image:
                raise ValueError(
                    f"{self.method.name} ranks vision tokens by the text after the image, and a prompt ends with its "
                    "image: put the question after the image, or use fastv or pdrop"
                )
            segment = first_segment(prompt.is_vision, prompt.valid, prompt.real, prompt.vision)
            schedules = self._schedules(prompt)
            if any({stage.layer for stage in schedule} != self.stages for schedule in schedules if schedule):
                raise ValueError(
                    f"{self.method.name} prunes prompts of another size after other layers than {sorted(self.stages)}: "
                    "give an explicit schedule or a share of their tokens (0.25) for its budget, and let its official "
                    "schedules of one depth name the same layers"
                )
            inside = [str(schedule) if schedule else "no image" for schedule in schedules]
            if prompt.columns is None:
                self.trace.schedules = inside
            else:  # `before:96` and what follows
                pairs = zip(self.trace.schedules, inside, strict=True)
                self.trace.schedules = [f"{before},{then}" if then != "no image" else then for before, then in pairs]
            for tokens in set(prompt.vision) - {0}:
                if excess := self.method.excess(tokens):
                    say_once(f"{excess}. Those that there are go on")
            steps = steps_of(self.method, schedules, self.stages, prompt)
            self.run = Run(prompt, steps, [segment], shared=shared, next_id=[segment.length] * len(prompt.real))
        return self.run

    def _schedules(self, prompt: Prompt) -> list[Schedule]:
        """Of each prompt, empty where it has no image."""
        counts = zip(prompt.vision, prompt.images, strict=True)
        try:
            return [self.plan(tokens, images) if images else Schedule() for tokens, images in counts]
        except ValueError as error:
            if self.anatomy.image_tokens or self.anatomy.multimodal is None:
                raise
            raise ValueError(f"{error}; images differ in size here: give a share of their tokens (0.25)") from None

    def resume(self, run: Run | None, cached: int) -> None:
        """Get ready for a decode step after `cached` tokens in layer 0."""
        self.run = run
        if run is not None:
            run.step = cached - run.segments[0].length
            run.rotary.clear()
            run.masks.clear()

    def check(self) -> None:
        """After a prefill: every stage ran."""
        ran = set() if self.run is None else {first - 1 for first in self.run.first_layers[1:]}
        if missing := sorted(set(() if self.run is None else self.run.steps) - ran):
            raise broken(f"no stage ran after layer {missing[0]}")

    # Layer by layer ----------------------------------------------------------------------------------------------

    def before_layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: Kwargs
    ) -> tuple[Any, Kwargs] | None:
        run = self.run
        if run is None:
            return None
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if index == 0:
            run.now = self.rotation.now
        if run.step is None:
            if index == 0:
                self._start(run, hidden)
            elif index - 1 in self.stages:
                hidden = self._stage(run, index, module, hidden, kwargs)
            if index in self.stages and "entering" in self.method.looks_at:
                run.entering = hidden
        current = run.segment_of(index)
        if current == 0:
            return None
        kwargs = {**kwargs, "attention_mask": self._mask(run, current, index, hidden, kwargs)}
        if run.step is None or self.method.positions == "renumber":
            kwargs["position_embeddings"] = self._rotary(run, current, index, hidden)
        # Flash attention reads position ids that do not start at 0 as packed sequences; layers rotate by cos and sin.
        kwargs["position_ids"] = None
        if args:
            return (hidden, *(self._left(run, current, part) for part in args[1:])), kwargs
        return args, {**kwargs, "hidden_states": hidden}

    def _left(self, run: Run, current: int, part: Any) -> Any:
        """Of what a layer is given for every token (Gemma 4), what is of those that are left."""
        if run.step is not None or not isinstance(part, Tensor) or part.shape[1:2] != (run.segments[0].length,):
            return part
        return gather_tokens(part, run.segments[current].to(part.device).ids)

    def _start(self, run: Run, hidden: Tensor) -> None:
        segment, positions = run.segments[0].to(hidden.device), run.now
        run.segments[0] = segment
        if run.shared is not None:
            hidden, positions = run.shared.embeds, run.shared.positions
        if positions is None:
            raise broken("the decoder was not seen to rotate its tokens")
        if any(any(step.made) for step in run.steps.values()):
            self._check_merging(axes=len(positions) if positions.ndim > 2 else 1)
        run.places = Places(self.method.positions, positions, segment, self.anatomy.first_position)
        text_mask = run.prompt.text_mask.to(hidden.device)
        run.prepared = self.method.prepare(Embeddings(hidden, segment.vision_index, segment.vision_mask, text_mask))

    def _check_merging(self, axes: int) -> None:
        if axes > 1:
            raise ValueError(
                f"{self.method.name} merges tokens, and this model's positions have {axes} axes, on "
                "which a merged token has no place: use a method or variant that only drops tokens"
            )
        if self.anatomy.follows:
            raise ValueError(
                f"{self.method.name} merges tokens, and in this model an image's tokens see each other, among which a "
                "merged one has no place: use a method or variant that only drops tokens"
            )
        if self.method.positions == "keep":
            raise ValueError(f"{self.method.name} merges tokens, which have no position to keep: renumber them")

    def _stage(self, run: Run, index: int, module: nn.Module, hidden: Tensor, kwargs: Kwargs) -> Tensor:
        """Prune what layer `index - 1` hands on to layer `index`."""
        method, before = self.method, run.segments[-1].to(hidden.device)
        if run.shared is not None:
            run.entering = None if run.entering is None else run.shared.join_entering(run.entering)
            hidden, run.shared = run.shared.join(hidden), None
        if method.looks_ahead:
            now = len(run.segments) - 1
            mask = self._mask(run, now, index, hidden, kwargs) if now else kwargs.get("attention_mask")
            rows = before.length if self.needs_whole_prompts else last_rows(method, run)
            self.ahead.run(module, hidden, self._rotary(run, now, index, hidden), mask, rows, kwargs)
        if run.attended is None and method.attends:
            raise broken(f"no attention was seen for the stage after layer {index - 1}")
        score = self._score(shown(method, run, index - 1, hidden, self.rotation), index - 1).to(hidden.device)
        run.attended = run.entering = None
        keep, made = run.steps[index - 1].keep, run.steps[index - 1].made
        chosen = choose(score, before, keep)
        dropped = [now - kept for now, kept in zip(before.vision, keep, strict=True)]
        merged = into = None
        if any(made):
            left = score.masked_fill(chosen | ~before.vision_mask, -torch.inf)
            merged, into = method.merge(gather_tokens(hidden, before.vision_index), left, dropped)
            self.doubts.note(merged, f"of tokens merged after layer {index - 1}")
        if into is not None or run.groups is not None:
            run.groups = self.trace.groups[index - 1] = self._regroup(run, before, chosen, into)
        segment, hidden, order = shorten(before, hidden, chosen, keep, run.prompt.text_after, merged, made, run.next_id)
        run.next_id = [number + new for number, new in zip(run.next_id, made, strict=True)]
        self.ahead.keep(None if any(made) else order)
        run.segments.append(segment)
        run.first_layers.append(index)
        self.trace.kept[index - 1] = segment.kept(run.prompt.columns)
        self.trace.entering[:, index:] = torch.tensor(segment.vision)[:, None]
        return hidden

    def _regroup(self, run: Run, before: Segment, chosen: Tensor, into: Tensor | None) -> Tensor:
        """What merged token each of the prompt's vision tokens is part of after the stage that is running."""
        device, tokens, length = chosen.device, max(run.segments[0].vision), run.segments[0].length
        first = per_sample([number - length for number in run.next_id], device)
        number = numbers(run, before)
        own = (number - tokens).clamp(min=-1)  # -1 of tokens that were not merged
        fate = own.masked_fill(~chosen, -1)
        if into is not None:
            fate = torch.where(into < 0, fate, first + into)
        number = number.masked_fill(~before.vision_mask, -1)
        groups = None if run.groups is None else run.groups.to(device)
        return regroup(groups, number, fate, tokens, max(run.next_id) - length)

    def _score(self, attention: Attention, layer: int) -> Tensor:
        """What the method says, (B, V); ValueError where it is no such thing, noted where it is not finite."""
        score, mask = self.method.score(attention), attention.vision_mask
        if not isinstance(score, Tensor) or score.shape != mask.shape or not score.is_floating_point():
            got = f"{score.dtype} {tuple(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(
                f"{self.method.name}.score gave {got} after layer {layer}: it must be one floating-point number per "
                f"vision token, {tuple(mask.shape)}"
            )
        self.doubts.note(score.masked_fill(~mask, 0), f"after layer {layer}")
        return score

    # Attention ---------------------------------------------------------------------------------------------------

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
        """Handler of the model's attention function: keep what the method asks for."""
        run = self.run
        if run is not None and run.step is None and module in self.observed:
            if self.ahead.running == self.method.looks_ahead:
                run.attended = attended(self.method, run, query, key, attention_mask, kwargs)
            if self.ahead.running:
                raise Seen
        return original(module, query, key, value, attention_mask, **kwargs)

    # Positions and masks -----------------------------------------------------------------------------------------

    def _rotary(self, run: Run, current: int, index: int, hidden: Tensor) -> Rotary:
        """cos and sin for layer `index`, which computes segment `current`."""
        key = (current, self.rotation.kind(index))
        if key not in run.rotary:
            assert run.places is not None
            assert run.now is not None
            segment, now = run.segments[current].to(hidden.device), run.now.to(hidden.device)
            places = run.places.of(segment) if run.step is None else run.places.after(current, segment, run.step, now)
            run.rotary[key] = self.rotation(hidden, places, key[1])
        return run.rotary[key]

    def _mask(self, run: Run, current: int, index: int, hidden: Tensor, kwargs: Kwargs) -> Tensor | None:
        """The attention mask of a shortened segment, built by transformers for its attention implementation."""
        segment, pattern = run.segments[current].to(hidden.device), pattern_of(self.masks.config, index)
        if segment.valid is None and kwargs.get("attention_mask") is None:
            return None
        if (current, pattern) not in run.masks:
            if run.step is None:
                mask = self.masks.of_prompt(index, hidden, segment, run.prompt.follow)
            else:
                mask = causal_mask(self.masks.config, index, hidden, segment.mask(run.step), cache_of(kwargs))
            run.masks[current, pattern] = mask
        return run.masks[current, pattern]

    def _segment(self) -> Segment | None:
        """What the layers compute now, in a prefill that they have shortened, by columns of the prompt as it came."""
        run = self.run
        if run is None or run.step is not None or len(run.segments) == 1:
            return None
        left, columns = run.segments[-1], run.prompt.columns
        return left if columns is None else replace(left, ids=columns.to(left.ids.device).gather(1, left.ids))
