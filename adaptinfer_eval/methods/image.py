"""Methods that prune before the language model: they choose, or merge, the tokens of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeGuard

from adaptinfer_eval.methods.method import Method
from adaptinfer_eval.methods.schedule import Count, Per, check_budget, check_counting, is_share, tokens_of
from adaptinfer_eval.methods.tower import Images, Look, Selection

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ImageMethod(Method):
    """Prunes before the language model: every image goes in with `budget` vision tokens, at every layer.

    `per` "prompt": the images of a prompt share them equally; what is left over goes to the first, one token each.
    A budget below 1 is the share of its own vision tokens that every image keeps, rounded (half a token up), and one at
    least: `budget=0.25` is a share, 25 a number of tokens.
    A subclass says which tokens of the image go on, or, if it works inside the vision tower, what happens there.
    """

    budget: float
    count: Count = "leaving"
    per: Per = "image"

    makes: ClassVar[bool] = False
    """Whether it puts in tokens of its own, beside those of the image."""
    in_tower: ClassVar[bool] = False
    """Whether tokens are merged inside the vision tower (`tower_schedule`, `assign`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counting(self.count, self.per)
        check_budget(self.budget, self.per)
        if not is_share(self.budget):
            if self.budget % 1:
                wanted = "a whole number of tokens, or a share below 1: 25 or 0.25"
                raise ValueError(f"budget={self.budget!r}: {self.name} takes {wanted}")
            object.__setattr__(self, "budget", int(self.budget))  # 2.0 is 2

    def before(self, num_layers: int) -> ImageMethod:
        return self

    @property
    def counts_itself(self) -> bool:
        """Whether the number of tokens depends on the image: `select` is called image by image, its count 0."""
        return False

    def look(self, read: int, depth: int) -> Look:
        """What it asks to see of a tower of `depth` layers; the projector gets the output of layer `read`."""
        return Look(hidden=False)

    def select(self, images: Images, count: int) -> Selection:
        """What of these images goes into the decoder, `count` rows each."""
        raise TypeError(f"{self.name} chooses tokens of images, but has no select()")

    def check(self, image_tokens: int, budget: int) -> None:
        """ValueError where it cannot choose `budget` tokens of an image of `image_tokens`."""

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

    def image_budget(self, image_tokens: int) -> int:
        """Vision tokens that go on of an image of `image_tokens`, where the budget is per image."""
        return max(int(tokens_of(self.budget, image_tokens) + 0.5), 1)

    def image_budgets(self, image_tokens: Sequence[int]) -> list[int]:
        """Vision tokens that go on of each image of a prompt whose images have so many.

        ValueError where one would be left without.
        """
        if self.per == "image" or not image_tokens:
            return [self.image_budget(tokens) for tokens in image_tokens]
        images = len(image_tokens)
        each, more = divmod(int(self.budget), images)
        if each == 0:
            raise ValueError(f"budget={self.budget} per prompt is less than a token for each of its {images} images")
        return [each + 1] * more + [each] * (images - more)

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
        for budget in set(self.image_budgets([image_tokens] * images)):
            self.for_image(budget).tower_schedule(layers, image_tokens)

    def entering(self, num_layers: int, vision_tokens: int, images: int = 1) -> list[int]:
        image_tokens = vision_tokens // images
        budgets = self.image_budgets([image_tokens] * images)
        for budget in set(budgets):
            if budget > image_tokens:
                raise ValueError(f"budget={self.budget}: the image has only {image_tokens} vision tokens: use vanilla")
            self.check(image_tokens, budget)
        return [sum(budgets)] * num_layers

    def describe(self, num_layers: int, vision_tokens: int, images: int = 1) -> str:
        return f"before:{sum(self.image_budgets([vision_tokens // images] * images))}"


def works_in_tower(method: Method) -> TypeGuard[ImageMethod]:
    """Whether a method merges tokens inside the vision tower, which then has to encode images for it alone."""
    return isinstance(method, ImageMethod) and method.in_tower
