"""Methods that prune before the language model: they choose, or merge, the tokens of each image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeGuard

from adaptinfer_eval.method import Method
from adaptinfer_eval.schedule import Count, check_count

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ImageMethod(Method):
    """Prunes before the language model: every image goes in with `budget` vision tokens, at every layer.

    A subclass says which tokens of the image go on and, if it works inside the vision tower, what happens there.
    """

    budget: int
    count: Count = "leaving"

    in_tower: ClassVar[bool] = False
    """Whether tokens are merged inside the vision tower (`tower_schedule`, `assign`)."""

    def __post_init__(self) -> None:
        if self.budget != int(self.budget) or self.budget < 1:
            raise ValueError(f"budget={self.budget}: a whole number of vision tokens per image, at least 1")
        object.__setattr__(self, "budget", int(self.budget))
        check_count(self.count)

    @abstractmethod
    def select(self, image_tokens: int) -> Sequence[int]:
        """Indices of the tokens of an image of `image_tokens` tokens that go on, increasing."""

    def tower_schedule(self, num_layers: int, image_tokens: int) -> Sequence[int]:
        """Tokens to merge in each of the tower's layers up to the one that is read."""
        raise TypeError(f"{self.name} works in the tower (in_tower), but has no tower_schedule()")

    @property
    def weighs_keys(self) -> bool:
        """Whether the tower attends to a merged token in proportion to the tokens it stands for (+ log size)."""
        return False

    def assign(self, keys: Tensor, count: int) -> Tensor:
        """The new row of every token, (B, n) int64 in 0 … n - count - 1; tokens that share a row are averaged.

        `keys` (B, n, head size): keys of the tower layer, mean over heads, row 0 = CLS; `count`: rows to merge away.
        """
        raise TypeError(f"{self.name} works in the tower (in_tower), but has no assign()")

    def entering(self, num_layers: int, vision_tokens: int) -> list[int]:
        if self.budget > vision_tokens:
            raise ValueError(f"budget={self.budget}: the image has only {vision_tokens} vision tokens: use vanilla")
        return [self.budget] * num_layers

    def describe(self, num_layers: int, vision_tokens: int) -> str:
        return f"before:{self.budget}"


def works_in_tower(method: Method) -> TypeGuard[ImageMethod]:
    """Whether a method merges tokens inside the vision tower, which then has to encode images for it alone."""
    return isinstance(method, ImageMethod) and method.in_tower
