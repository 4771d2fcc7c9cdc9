"""A method's twin: the same tokens per layer, chosen beforehand. What a method takes beyond it is its choosing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.method import Method
from adaptinfer_eval.methods.tower import Images, Selection
from adaptinfer_eval.methods.two_places import TwoPlaceMethod

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention


@dataclass(frozen=True, kw_only=True)
class ChosenInside(LayerMethod):
    """Keeps the first vision tokens, whatever they are."""

    official: ClassVar = {}
    queries: ClassVar = "none"

    def score(self, attention: Attention) -> Tensor:
        import torch

        mask = attention.vision_mask
        return -torch.arange(mask.shape[1], dtype=torch.float32, device=mask.device).expand(mask.shape)


@dataclass(frozen=True, kw_only=True)
class ChosenBefore(ImageMethod):
    """The same of an image, in front of the decoder."""

    def select(self, images: Images, count: int) -> Selection:
        import torch

        return Selection(torch.arange(count, device=images.projected.device).expand(len(images.projected), -1))


@dataclass(frozen=True, kw_only=True)
class ChosenTwice(TwoPlaceMethod):
    """In both places: `going_in_with` tokens, and the decoder's `schedule` of these."""

    going_in_with: int
    schedule: str

    def before(self, num_layers: int) -> ChosenBefore:
        return ChosenBefore(budget=self.going_in_with)

    def inside(self, num_layers: int) -> ChosenInside:
        return ChosenInside(schedule=self.schedule)


def chosen(method: Method, num_layers: int, vision_tokens: int) -> Method | None:
    """The twin of `method` for prompts of one image; None where nothing is pruned."""
    entering = method.entering(num_layers, vision_tokens)
    stages = [f"{i}:{entering[i + 1]}" for i in range(num_layers - 1) if entering[i + 1] != entering[i]]
    schedule, going_in = ",".join(stages), entering[0]
    if going_in == vision_tokens:
        return ChosenInside(schedule=schedule) if schedule else None
    before = ChosenBefore(budget=going_in)
    return ChosenTwice(going_in_with=going_in, schedule=schedule) if schedule else before
