"""`pruned(model, method)` and `observed(model, see)`: attach to an unmodified model for the length of a block."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from adaptinfer_eval.backbones import anatomy_of
from adaptinfer_eval.backbones.anatomy import Anatomy
from adaptinfer_eval.backbones.towers import CLIP
from adaptinfer_eval.methods.image import ImageMethod, works_in_tower
from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.method import Method
from adaptinfer_eval.methods.schedule import Schedule
from adaptinfer_eval.methods.tower import Look
from adaptinfer_eval.methods.two_places import TwoPlaceMethod
from adaptinfer_eval.pruning.choice import Chooser, no_place
from adaptinfer_eval.pruning.decoder import DecoderWatch
from adaptinfer_eval.pruning.given import Given, Tokenize
from adaptinfer_eval.pruning.guards import check_generate, check_mode
from adaptinfer_eval.pruning.images import ImagePruner
from adaptinfer_eval.pruning.intercept import intercepted
from adaptinfer_eval.pruning.language import LayerPruner
from adaptinfer_eval.pruning.observer import Observer, See
from adaptinfer_eval.pruning.prefix import SharedPrefix
from adaptinfer_eval.pruning.prompt import read_prompt
from adaptinfer_eval.pruning.proof import Doubts
from adaptinfer_eval.pruning.releases import say_if_untested
from adaptinfer_eval.pruning.shown import Shown
from adaptinfer_eval.pruning.tower import TowerPruner
from adaptinfer_eval.pruning.tower_watch import TowerWatch
from adaptinfer_eval.pruning.trace import Trace
from adaptinfer_eval.pruning.trunk import Climb, Trunk
from adaptinfer_eval.pruning.watched import watch_tower


@contextmanager
def pruned(
    model: PreTrainedModel,
    method: Method,
    vision_mask: Tensor | None = None,
    prefix: SharedPrefix | None = None,
    images: Sequence[int] | None = None,
    shown: Sequence[Sequence[Shown]] | None = None,
    questions: Sequence[str] | None = None,
    tokenize: Tokenize | None = None,
    trunk: Trunk | None = None,
    ended: Callable[[], Sequence[bool]] | None = None,
) -> Iterator[Trace]:
    """Prune the vision tokens of every prompt that `model` sees inside the block; the model is unchanged after it.

    `model`: of a family in `backbones`, a bare decoder fed `inputs_embeds` (then `vision_mask`, bool (B, L), is True on
    its vision tokens), or a bare CLIPVisionModel (for methods that merge there). The yielded `Trace` tells what the
    last prefill kept. Only prefill prunes; decode steps go on inside the block with the cache that the prefill filled.

    `prefix`: what prompts of the block's first batch begin with alike. It is computed once, up to the first layer that
    prunes; answers stay the same, but logits and hidden states are those of the questions alone. Methods that cut
    images before the decoder let the same tokens of an image in for all its questions. Without effect on those of them
    that choose by the question, and with any cache but the DynamicCache that `generate` makes.

    `trunk`: what this method has in common with others that are attached one after the other, in the order of their
    first stages, for the same first batch: the layers up to there are computed once. Answers stay the same; without
    effect with any other cache, on methods that cut images before the decoder, and on those that look at the vision
    tokens' own attention. Hidden states and hooks of layers that are passed over mean nothing.

    `images`: of each prompt of the block's first batch (its videos together are one), where images differ in size and
    may stand side by side, so that their tokens do not tell. `shown`: what the vision tower showed of them where they
    were encoded before (see `watched`). `questions`: what each of its prompts asks, for methods that read it, and
    `tokenize`: the ids of a text in the model's vocabulary, without special tokens, for those that read it there.

    `ended`: which answers of the block's only batch are over, asked in every decode step (not with beams). They leave
    the decoder and its cache where that pays: what is computed for them from then on means nothing.

    Raises ValueError, before anything runs, for a model family that is not known, a schedule that does not fit, and
    uses that would give wrong tokens: training mode, a static cache, chunked prefill; in `generate` also no cache, a
    filled one, and assisted decoding. PruningError where the model then does not do what was planned (proof.py), and
    for scores that are not finite: at the end of `generate`, or when the block ends.
    """
    check_mode(model)
    anatomy = anatomy_of(model)
    say_if_untested()
    trace, doubts = Trace(), Doubts(method.name)
    with ExitStack() as stack:
        tower = None
        if works_in_tower(method):
            tower = _attach_tower(stack, anatomy, method, trace, doubts)
        elif anatomy.text is None:
            raise ValueError(f"{method.name} does nothing in a vision tower: use it on the whole model")
        if anatomy.text is not None:
            said = Given(images, shown, questions, tokenize, ended)
            _attach_decoder(stack, model, anatomy, method, vision_mask, prefix, said, trace, doubts, tower, trunk)
        yield trace
        doubts.settle()


@contextmanager
def observed(
    model: PreTrainedModel, see: See, vision_mask: Tensor | None = None, prefix: SharedPrefix | None = None
) -> Iterator[Trace]:
    """Show `see` the attention of every decoder layer, the last one too, in every prefill inside the block.

    Nothing is pruned, and the model is unchanged after it. `see(layer, received)` is called in the order of the layers,
    and not for prompts without an image; the rows are computed as methods get them, beside the model's own attention.
    `model`, `vision_mask`, `prefix`, and what is refused with ValueError: as in `pruned`. PruningError where a layer
    was not seen, and for attention that is not finite.
    """
    check_mode(model)
    anatomy = anatomy_of(model)
    if anatomy.text is None:
        raise ValueError("a vision tower has no text that attends to it: observe the whole model")
    if len(anatomy.attending) < len(anatomy.layers):
        raise ValueError(f"layers {_without(anatomy)} do not attend: there is nothing to observe in them")
    say_if_untested()
    trace, doubts = Trace(), Doubts("observed")
    observer = Observer(anatomy.layers, see, doubts)
    with ExitStack() as stack:
        _watch(stack, model, DecoderWatch(anatomy, vision_mask, trace, observer, None, prefix, None, Given()), doubts)
        yield trace
        doubts.settle()


def _attach_tower(stack: ExitStack, anatomy: Anatomy, method: ImageMethod, trace: Trace, doubts: Doubts) -> TowerPruner:
    tower = anatomy.tower
    layers, image_tokens = (tower.merging, tower.image_tokens) if tower else (0, 0)
    method.check_tower(layers, image_tokens, _fewest_images(method, image_tokens))
    assert tower is not None
    if method.per == "prompt" and anatomy.text is None:
        raise ValueError(f"per=prompt: a vision tower by itself knows no prompts: give {method.name} per=image")
    pruner = TowerPruner(tower, method, trace, doubts)
    config: Any = tower.model.config
    stack.enter_context(intercepted(config._attn_implementation, pruner.observe))
    for handle in pruner.hook():
        stack.callback(handle.remove)
    if tower.projector is not None:
        stack.callback(tower.projector.register_forward_hook(pruner.restore_length).remove)
    return pruner


def _attach_decoder(
    stack: ExitStack,
    model: Any,
    anatomy: Anatomy,
    method: Method,
    vision_mask: Tensor | None,
    prefix: SharedPrefix | None,
    said: Given,
    trace: Trace,
    doubts: Doubts,
    tower: TowerPruner | None,
    trunk: Trunk | None,
) -> None:
    text: Any = anatomy.text
    image_tokens = _image_tokens(anatomy, vision_mask)
    fewest = _fewest_images(method, image_tokens)
    num_layers = len(text.layers)
    layers = images = None
    before, inside = method.before(num_layers), method.inside(num_layers)
    if image_tokens and not (before is not None and before.counts_itself):
        method.entering(num_layers, fewest * image_tokens, fewest)  # what does not fit is refused here
    if before is not None:
        images = ImagePruner(anatomy, before, trace, _chooser(stack, anatomy, before, said, doubts))
    if inside is not None:
        tokens = fewest * image_tokens
        going_in = before.entering(num_layers, tokens, fewest)[0] if before and tokens else tokens
        usual = inside.plan(num_layers, going_in, fewest) if tokens else inside.places(num_layers)
        _check_attending(anatomy, inside, usual)
        layers = LayerPruner(anatomy, inside, usual, trace, doubts)
    climb = None
    if trunk is not None and images is None and tower is None and not (layers and layers.needs_whole_prompts):
        climb = Climb(trunk, anatomy.layers, layers, doubts)
    _watch(stack, model, DecoderWatch(anatomy, vision_mask, trace, layers, images, prefix, tower, said, climb), doubts)


def _chooser(stack: ExitStack, anatomy: Anatomy, method: ImageMethod, said: Given, doubts: Doubts) -> Chooser:
    """What asks `method`; it watches the vision tower, where there is one to look at."""
    tower = anatomy.tower
    if method.makes and anatomy.no_place:
        raise no_place(method, anatomy.no_place)
    if method.in_tower:
        return Chooser(anatomy, method, Look(hidden=False), None, said, doubts)
    if tower is None:
        look = method.look(0, 1)
        if look.tower:
            why = anatomy.unseen or "there is none here: use it on a whole model"
            raise ValueError(f"{method.name} chooses by what the vision tower computes, and {why}")
        return Chooser(anatomy, method, look, None, said, doubts)
    look = method.look(tower.read, len(tower.layers))
    config: Any = tower.model.config
    if look.clip and config.model_type != CLIP:
        raise ValueError(
            f"{method.name} compares the question with the image in CLIP, and this model's vision tower "
            f"({config.model_type}) is none and has no text tower there: use a method that needs none"
        )
    watch = TowerWatch(tower, look)
    watch_tower(stack, watch)
    return Chooser(anatomy, method, look, watch, said, doubts)


def _watch(stack: ExitStack, model: Any, watch: DecoderWatch, doubts: Doubts) -> None:
    """Let `watch` follow the decoder of `model`, and `generate`."""
    text: Any = watch.anatomy.text
    if any(isinstance(getattr(hook, "__self__", None), DecoderWatch) for hook in text._forward_pre_hooks.values()):
        raise ValueError("the model is already inside a pruned block: leave it before you attach another method")
    stack.enter_context(intercepted(text.config._attn_implementation, watch.observe))
    for handle in watch.hook(model):
        stack.callback(handle.remove)
    if hasattr(model, "generate"):
        generate = model.generate

        @functools.wraps(generate)
        def checked(*args: Any, **kwargs: Any) -> Any:
            named = {**dict(zip(("inputs", "generation_config"), args, strict=False)), **kwargs}
            check_generate(model, named)
            watch.expect_images(named)
            output = generate(*args, **kwargs)
            doubts.settle()
            return output

        model.generate = checked
        stack.callback(delattr, model, "generate")


def _check_attending(anatomy: Anatomy, method: LayerMethod, usual: Schedule) -> None:
    """ValueError for a stage after a layer that does not attend, or before any has: what would it choose by?

    Methods that look at no attention choose anywhere.
    """
    if not method.attends:
        return
    ahead = 1 if method.looks_ahead else 0
    can = [layer - ahead for layer in anatomy.attending if layer - ahead >= anatomy.attending[0]]
    if cannot := [stage.layer for stage in usual if stage.layer not in can]:
        raise ValueError(
            f"{method.name} prunes after layer {cannot[0]}, and {_without(anatomy)} do not attend (linear attention), "
            f"so that it can choose after {can} alone: say so with layers= (FastV: k=) or schedule="
        )


def _without(anatomy: Anatomy) -> list[int]:
    return sorted(set(range(len(anatomy.layers))) - set(anatomy.attending))


def _fewest_images(method: Method, image_tokens: int) -> int:
    """Images of the smallest prompt that a budget can be for: a budget per prompt may be more than one has tokens."""
    if not isinstance(method, LayerMethod | ImageMethod | TwoPlaceMethod) or method.per == "image" or not image_tokens:
        return 1
    return max(1, math.ceil((method.budget or 0) / image_tokens))


def _image_tokens(anatomy: Anatomy, vision_mask: Tensor | None) -> int:
    """Vision tokens of an image, 0 where each has its own; for a bare decoder those of the fullest prompt's."""
    if anatomy.multimodal is not None:
        return anatomy.image_tokens
    if vision_mask is None:
        raise ValueError("a decoder fed inputs_embeds does not say where its vision tokens are: pass vision_mask=")
    prompt = read_prompt(vision_mask.bool(), None)
    return max(tokens // max(images, 1) for tokens, images in zip(prompt.vision, prompt.images, strict=True))
