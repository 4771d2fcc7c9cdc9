"""Methods that prune before the language model: they choose, or merge, the tokens of each image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeGuard

from adaptinfer_eval.methods.method import Method
from adaptinfer_eval.methods.schedule import Count, Per, check_budget, check_counting

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ImageMethod(Method):
    """Prunes before the language model: every image goes in with `budget` vision tokens, at every layer.

    `per` "prompt": the images of a prompt share them equally; what is left over goes to the first, one token each.
    A subclass says which tokens of the image go on and, if it works inside the vision tower, what happens there.
    """

    budget: int
    count: Count = "leaving"
    per: Per = "image"

    in_tower: ClassVar[bool] = False
    """Whether tokens are merged inside the vision tower (`tower_schedule`, `assign`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budget(self.budget)
        check_counting(self.count, self.per)

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

    def image_budgets(self, images: int) -> list[int]:
        """Vision tokens of each image of a prompt that has so many; ValueError where one would be left without."""
        if self.per == "image" or images == 0:
            return [self.budget] * images
        share, more = divmod(self.budget, images)
        if share == 0:
            raise ValueError(f"budget={self.budget} per prompt is less than a token for each of its {images} images")
        return [share + 1] * more + [share] * (images - more)

    def for_image(self, budget: int) -> ImageMethod:
        """The same method for one image of a prompt, which keeps `budget` tokens."""
        return replace(self, budget=budget, per="image")

    def check_tower(self, layers: int, image_tokens: int, images: int = 1) -> None:
        """ValueError unless `layers` of the vision tower (0: none can) merge each image to its budget."""
        if not layers:
            raise ValueError(
                f"{self.name} works inside a CLIP vision tower whose patches are read without CLS, "
                "and this model has none: use a method that prunes in the language model"
            )
        for budget in set(self.image_budgets(images)):
            self.for_image(budget).tower_schedule(layers, image_tokens)

    def entering(self, num_layers: int, vision_tokens: int, images: int = 1) -> list[int]:
        budgets, image_tokens = self.image_budgets(images), vision_tokens // images
        for budget in set(budgets):
            if budget > image_tokens:
                raise ValueError(f"budget={self.budget}: the image has only {image_tokens} vision tokens: use vanilla")
            self.for_image(budget).select(image_tokens)  # refuses images that it cannot choose from
        return [sum(budgets)] * num_layers

    def describe(self, num_layers: int, vision_tokens: int, images: int = 1) -> str:
        return f"before:{sum(self.image_budgets(images))}"


def works_in_tower(method: Method) -> TypeGuard[ImageMethod]:
    """Whether a method merges tokens inside the vision tower, which then has to encode images for it alone."""
    return isinstance(method, ImageMethod) and method.in_tower
