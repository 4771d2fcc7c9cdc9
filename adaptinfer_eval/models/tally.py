"""What a run really cost: sums over its requests, which can be added across processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from adaptinfer_eval.cost import prefill_macs
from adaptinfer_eval.schedule import mean_count


@dataclass
class Tally:
    """Sums over the prefills of a run, one entry per request; padding in a batch counts for nothing.

    `entering`, `leaving`: vision tokens per layer, mean over layers, as traced. `flops`: 2 × Eq. 5 of AdaptInfer over
    the traced tokens. `vision_tokens`, `text_tokens`: of the prompt. `schedules`: requests by what was done to them.
    """

    requests: int = 0
    entering: float = 0.0
    leaving: float = 0.0
    flops: float = 0.0
    vision_tokens: int = 0
    text_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    schedules: Counter[str] = field(default_factory=Counter)

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
        self.entering += mean_count(entering, "entering")
        self.leaving += mean_count(entering, "leaving")
        self.flops += 2 * prefill_macs([n + text_tokens for n in entering], hidden_size, intermediate_size)
        self.vision_tokens += vision_tokens
        self.text_tokens += text_tokens
        self.schedules[schedule] += 1

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def means(self) -> dict[str, Any]:
        """Means over requests, their number, and the schedules in force; `{"requests": 0}` when there were none."""
        if not self.requests:
            return {"requests": 0}
        sums = asdict(self)
        per_request = ("entering", "leaving", "flops", "vision_tokens", "text_tokens")
        return {
            "schedule": " | ".join(schedule for schedule, _ in self.schedules.most_common()),
            **{name: sums[name] / self.requests for name in per_request},
            "requests": self.requests,
        }
