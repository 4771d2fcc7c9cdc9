"""What a vision tower shows of images that are encoded once for several methods."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from adaptinfer_eval.backbones.anatomy import Anatomy
from adaptinfer_eval.methods.method import Method
from adaptinfer_eval.pruning.intercept import intercepted
from adaptinfer_eval.pruning.shown import Shown, all_of
from adaptinfer_eval.pruning.tower_watch import TowerWatch


@contextmanager
def watched(anatomy: Anatomy, methods: Sequence[Method]) -> Iterator[TowerWatch | None]:
    """Watch the vision tower for all of `methods` that look at it, in the block; None where none of them does.

    The attention that it computes and what it gives stay as they are. ValueError for layers that it has not.
    """
    before = [method.before(len(anatomy.layers)) for method in methods]
    choosing = [method for method in before if method is not None and not method.in_tower]
    tower = anatomy.tower
    if tower is None or not choosing:
        yield None
        return
    watch = TowerWatch(tower, all_of(method.look(tower.read, len(tower.layers)) for method in choosing))
    with ExitStack() as stack:
        watch_tower(stack, watch)
        yield watch


def watch_tower(stack: ExitStack, watch: TowerWatch) -> None:
    """Attach `watch` to its tower until `stack` is left."""
    implementation: str = watch.tower.model.config._attn_implementation  # type: ignore[union-attr, assignment]
    stack.enter_context(intercepted(implementation, watch.observe))
    for handle in watch.hook():
        stack.callback(handle.remove)


def by_prompt(shown: Sequence[Shown], tokens: Sequence[int]) -> list[list[Shown]]:
    """What was shown of the images of prompts with so many vision tokens; empty where these are not the tower's."""
    parts: list[list[Shown]] = []
    left = list(reversed(shown))
    for wanted in tokens:
        own: list[Shown] = []
        while left and wanted > 0:
            own.append(left.pop())
            wanted -= math.prod(own[-1].grid)
        if wanted:
            return []
        parts.append(own)
    return [] if left else parts
