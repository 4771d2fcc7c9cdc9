"""What a whole sweep computes on paper, Eq. 5 over all cells and questions: each cell alone, and with what they share.

Cells that act only between the decoder's layers compute the same until their first stage. Of a batch this is computed
once, down to the deepest first stage, vanilla having none: the *trunk*. In it, what the questions of a batch about one
picture begin with is computed once for all of them. Methods that change what enters the decoder share no trunk, but
those that do not look at the question have its beginning once for a picture, too, up to their first stage. Methods that
look at every token's attention share nothing. A method that follows another one asks that first, under another prompt;
these passes have a trunk of their own. Vision tower, decode steps and lm_head are not in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adaptinfer_eval.backbones import FAMILIES
from adaptinfer_eval.cost import TEXT_BEFORE, layer_macs
from adaptinfer_eval.methods.following import FollowingMethod
from adaptinfer_eval.methods.method import Method
from adaptinfer_eval.sweep.cells import Planned, first_stage
from adaptinfer_eval.sweep.config import Shape, SweepConfig
from adaptinfer_eval.sweep.shape import model_shape
from adaptinfer_eval.sweep.task_size import TaskSize


@dataclass(frozen=True)
class Asked:
    """A prompt: text tokens `before` the vision tokens of its `images`, and `after` them.

    `causal`: attention is counted as kernels compute it, each token over those up to it; Eq. 5 counts it over all.
    """

    before: float
    vision_tokens: int
    after: float
    images: int = 1
    causal: bool = False

    @property
    def tokens(self) -> float:
        return self.before + self.vision_tokens + self.after


@dataclass(frozen=True)
class Work:
    """Multiply-adds (Eq. 5) of a question under all cells: each `alone`, and with what they have in common `shared`."""

    alone: float
    shared: float


def work_of_question(methods: Sequence[Method], shape: Shape, asked: Asked, pictures_begun: float) -> Work:
    """The mean over questions, each answered under all `methods`.

    `pictures_begun`: how often, for each question, a picture goes through the trunk (`TaskSize.pictures_begun`).
    """
    leaders = [method.leader for method in methods if isinstance(method, FollowingMethod)]
    alone = sum(_layers(method, shape, asked, first=0) for method in (*methods, *leaders))
    return Work(alone, sum(_together(group, shape, asked, pictures_begun) for group in (methods, leaders)))


def work_of_sweep(
    config: SweepConfig,
    planned: Sequence[Planned],
    size: TaskSize | None,
    text_tokens: float,
    causal: bool = False,
) -> Work:
    """Of a question of a task of `size`, with `text_tokens` of text, under all cells of `planned` whose cost is known.

    A task of no known size is one question a picture, and so is one asked of a model whose prompts begin with nothing
    that could be shared.
    """
    shape, before = model_shape(config), min(TEXT_BEFORE, text_tokens)
    asked = Asked(before, config.images * shape.vision_tokens, text_tokens - before, config.images, causal)
    methods = [setting.setting.build() for setting in planned if setting.audit]
    begun = size.pictures_begun(config.batch_size) if size and shares_pictures(config) else 1.0
    work = work_of_question(methods, shape, asked, begun)
    return work if shares(config) else Work(work.alone, work.alone)


def shares(config: SweepConfig) -> bool:
    """Whether methods share a trunk in a sweep: it is asked to, and its model's layers can be handed on."""
    return config.sharing and FAMILIES[config.backbone].hands_on


def shares_pictures(config: SweepConfig) -> bool:
    """Whether questions about one picture share it there, too: its model's tokens see those before them, in one row."""
    return shares(config) and FAMILIES[config.backbone].sees_before()


def _together(methods: Sequence[Method], shape: Shape, asked: Asked, pictures_begun: float) -> float:
    depths = [shared_layers(method, shape.num_layers, asked) for method in methods]
    with_depths = zip(methods, depths, strict=True)
    own = sum(_own_layers(method, shape, asked, first, pictures_begun) for method, first in with_depths)
    return own + max(depths, default=0) * _prompt_layer(shape, asked, asked.vision_tokens, pictures_begun)


def shared_layers(method: Method, num_layers: int, asked: Asked) -> int:
    """How many layers, from the first on, compute under `method` what they compute with nothing pruned."""
    inside = method.inside(num_layers)
    if method.before(num_layers) is not None or (inside and inside.queries == "all"):
        return 0
    return min(num_layers, first_stage(method, num_layers, asked.vision_tokens, asked.images) + 1)


def _layers(method: Method, shape: Shape, asked: Asked, first: int) -> float:
    """The layers from `first` on, of one prompt by itself."""
    text = asked.before + asked.after
    lengths = [n + text for n in method.entering(shape.num_layers, asked.vision_tokens, asked.images)[first:]]
    return sum(_layer(shape, asked, n, n) for n in lengths)


def _own_layers(method: Method, shape: Shape, asked: Asked, first: int, pictures_begun: float) -> float:
    """The layers from `first` on, that no other method shares; what goes in of a picture is alike for its questions."""
    before, inside = method.before(shape.num_layers), method.inside(shape.num_layers)
    if before is None or before.look(0, 1).asked or before.counts_itself or (inside and inside.queries == "all"):
        return _layers(method, shape, asked, first)
    going_in = method.entering(shape.num_layers, asked.vision_tokens, asked.images)[0]
    alike = min(shape.num_layers, first_stage(method, shape.num_layers, going_in, asked.images) + 1)
    together = alike * _prompt_layer(shape, asked, going_in, pictures_begun)
    return together + _layers(method, shape, asked, alike)


def _prompt_layer(shape: Shape, asked: Asked, vision_tokens: float, pictures_begun: float) -> float:
    """A layer that so many vision tokens go through with their text, what stands before it once for a picture."""
    prefix, whole = asked.before + vision_tokens, asked.before + vision_tokens + asked.after
    if pictures_begun == 1:
        return _layer(shape, asked, whole, whole)
    return pictures_begun * _layer(shape, asked, prefix, prefix) + _layer(shape, asked, asked.after, whole)


def _layer(shape: Shape, asked: Asked, computed: float, attended: float) -> float:
    """A layer that computes the last `computed` of `attended` tokens."""
    seen = attended - computed / 2 if asked.causal else attended
    return layer_macs(computed, seen, shape.hidden_size, shape.intermediate_size)
