"""What a run really cost: sums over its requests, which can be added across processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from adaptinfer_eval.cost import prefill_macs


@dataclass
class Tally:
    """Sums over the prefills of a run; `a + b` is the tally of both.

    `entering`: by layer, vision tokens that entered it, as traced (padding left out). `flops`: 2 × Eq. 5 of AdaptInfer
    over the traced tokens. `vision_tokens`, `text_tokens`: of the prompts, before pruning. `schedules`:
    requests by what the method does to them. `seconds`: spent in `generate`.
    """

    requests: int = 0
    entering: Counter[int] = field(default_factory=Counter)
    flops: float = 0.0
    vision_tokens: int = 0
    text_tokens: int = 0
    schedules: Counter[str] = field(default_factory=Counter)
    generated_tokens: int = 0
    seconds: float = 0.0

    def add(
        self,
        entering: Sequence[int],
        *,
        vision_tokens: int,
        text_tokens: int,
        hidden_size: int,
        intermediate_size: int,
        schedule: str,
    ) -> None:
        """Count one prompt whose `entering[i]` vision tokens entered layer i."""
        self.requests += 1
        self.entering.update(dict(enumerate(entering)))
        self.flops += 2 * prefill_macs([n + text_tokens for n in entering], hidden_size, intermediate_size)
        self.vision_tokens += vision_tokens
        self.text_tokens += text_tokens
        self.schedules[schedule] += 1

    def __add__(self, other: Tally) -> Tally:
        both = {name: value + getattr(other, name) for name, value in vars(self).items()}
        # Counter's own + leaves out zeros, and no vision token at all is a count like any other.
        both["entering"] = Counter(self.entering)
        both["entering"].update(other.entering)
        return Tally(**both)

    def audit(self) -> dict[str, Any]:
        """Means over requests (vision tokens `entering` and `leaving` a layer: also over layers), and their number.

        `{"requests": 0}` when there were none.
        """
        if not self.requests:
            return {"requests": 0}
        layers = self.by_layer()
        return {
            "schedule": " | ".join(schedule for schedule, _ in self.schedules.most_common()),
            "entering": sum(layers) / len(layers),
            "leaving": sum([*layers[1:], layers[-1]]) / len(layers),
            "flops": self.flops / self.requests,
            "vision_tokens": self.vision_tokens / self.requests,
            "text_tokens": self.text_tokens / self.requests,
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
