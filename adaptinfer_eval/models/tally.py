"""What requests really cost: one by one, and in sums that can be added across processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from adaptinfer_eval.cost import prefill_macs
from adaptinfer_eval.methods.schedule import mean_count

if TYPE_CHECKING:
    from adaptinfer_eval.pruning.trace import Trace


@dataclass(frozen=True)
class Cost:
    """One request.

    `schedule`: what was done to it. `entering[i]`: vision tokens that entered layer i, as traced (padding left out).
    `images`, `vision_tokens`, `text_tokens`: of its prompt, before pruning (an image that is cut in tiles counts as
    so many). `flops`: 2 × Eq. 5 of AdaptInfer over the traced tokens. `seconds`: its share of its batch's time in
    `generate`.
    """

    schedule: str
    entering: tuple[int, ...]
    images: int
    vision_tokens: int
    text_tokens: int
    flops: float
    seconds: float
    generated_tokens: int = 0


def costs(trace: Trace, vision: Sequence[int], real: Sequence[int], text: Any, seconds: float) -> list[Cost]:
    """Of each prompt of a batch, `seconds` long: it had `vision` tokens before pruning, and `real` ones in all.

    `text`: the configuration of the decoder.
    """
    found = []
    rows = zip(trace.entering.tolist(), trace.schedules, trace.images, vision, real, strict=True)
    for entering, schedule, images, of_images, tokens in rows:
        others = tokens - of_images
        macs = prefill_macs([n + others for n in entering], text.hidden_size, text.intermediate_size)
        found.append(Cost(schedule, tuple(entering), images, of_images, others, 2 * macs, seconds))
    return found


@dataclass
class Tally:
    """Sums over the costs of some requests; `a + b` is the tally of both. `entering`: by layer."""

    requests: int = 0
    entering: Counter[int] = field(default_factory=Counter)
    flops: float = 0.0
    images: int = 0
    vision_tokens: int = 0
    text_tokens: int = 0
    schedules: Counter[str] = field(default_factory=Counter)
    generated_tokens: int = 0
    seconds: float = 0.0

    def add(self, cost: Cost) -> None:
        self.requests += 1
        self.entering.update(dict(enumerate(cost.entering)))
        self.flops += cost.flops
        self.images += cost.images
        self.vision_tokens += cost.vision_tokens
        self.text_tokens += cost.text_tokens
        self.schedules[cost.schedule] += 1
        self.generated_tokens += cost.generated_tokens
        self.seconds += cost.seconds

    def __add__(self, other: Tally) -> Tally:
        both = {name: value + getattr(other, name) for name, value in vars(self).items()}
        # Counter's own + leaves out zeros, and no vision token at all is a count like any other.
        both["entering"] = Counter(self.entering)
        both["entering"].update(other.entering)
        return Tally(**both)

    def audit(self) -> dict[str, Any]:
        """Means over requests (vision tokens `entering` and `leaving` a layer: also over layers), and their number.

        `entering_per_image`, `leaving_per_image`: means over images instead; `entering_share`, `leaving_share`: shares
        of the vision tokens that all requests came with. All four are left out where no request has any.
        `{"requests": 0}` when there were none.
        """
        if not self.requests:
            return {"requests": 0}
        layers = self.by_layer()
        tokens = {"entering": mean_count(layers, "entering"), "leaving": mean_count(layers, "leaving")}
        images, vision_tokens = self.images / self.requests, self.vision_tokens / self.requests
        return {
            "schedule": " | ".join(schedule for schedule, _ in self.schedules.most_common()),
            **tokens,
            **({f"{count}_per_image": mean / images for count, mean in tokens.items()} if images else {}),
            **({f"{count}_share": mean / vision_tokens for count, mean in tokens.items()} if vision_tokens else {}),
            "flops": self.flops / self.requests,
            "images": images,
            "vision_tokens": vision_tokens,
            "text_tokens": self.text_tokens / self.requests,
            "generated_tokens": self.generated_tokens / self.requests,
            "requests": self.requests,
        }

    def by_layer(self) -> list[float]:
        """Vision tokens entering each layer, mean over requests."""
        return [self.entering[layer] / self.requests for layer in sorted(self.entering)]

    def stages(self) -> dict[str, float]:
        """Vision tokens that went on after each layer that changed their number: the schedule in numbers."""
        layers = self.by_layer()
        pairs = enumerate(pairwise(layers))
        return {f"vision_tokens_after_layer_{layer}": after for layer, (before, after) in pairs if after != before}
