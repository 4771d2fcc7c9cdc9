"""What is known of a prompt batch while a decoder works on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from adaptinfer_eval.methods.seen import Rotary
from adaptinfer_eval.pruning.prefix import Shared
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.rotation import Places
from adaptinfer_eval.pruning.sequence import Segment
from adaptinfer_eval.pruning.steps import Step


@dataclass(frozen=True)
class Attended:
    """What is kept of a layer's attention until the stage behind the layer, see `Attention`.

    `keys` (B, H_kv, n, head size).
    """

    to_vision: Tensor
    to_text: Tensor
    keys: Tensor | None = None
    among_vision: Callable[[], Iterator[Tensor]] | None = None


@dataclass
class Run:
    """One prompt batch, from its prefill through its decode steps.

    `steps`: what each stage will do. `segments`: the sequence before the first stage, after it, ….
    `first_layers[i]`: where segment i begins. `shared`: the prompts' computed prefixes, until the first stage; so far
    layers get the questions alone. `groups`: as in a trace, after the last stage. `places`: where the tokens are.
    `attended`, `entering`: what the method asks for of the layer that a stage is behind: its attention, and the hidden
    states that it got.
    `step`: tokens decoded so far, None in prefill; `now`: the step's position as the model has it. `masks`, `rotary`:
    by segment and type of layer, for this forward.
    """

    prompt: Prompt
    steps: dict[int, Step]
    segments: list[Segment]
    first_layers: list[int] = field(default_factory=lambda: [0])
    shared: Shared | None = None
    places: Places | None = None
    now: Tensor | None = None
    prepared: Tensor | None = None
    attended: Attended | None = None
    entering: Tensor | None = None
    next_id: list[int] = field(default_factory=list)
    groups: Tensor | None = None
    step: int | None = None
    masks: dict[tuple[int, str], Tensor | None] = field(default_factory=dict)
    rotary: dict[tuple[int, str | None], Rotary] = field(default_factory=dict)

    def of_rows(self, rows: Tensor) -> Run:
        """The same in further decode steps of the samples `rows` (R,) alone."""
        places = None if self.places is None else self.places.of_rows(rows)
        return replace(self, segments=[segment.of_rows(rows) for segment in self.segments], places=places)

    def segment_of(self, layer: int) -> int:
        return max(i for i, first in enumerate(self.first_layers) if first <= layer)
