"""Which questions to show: those that methods at one budget answer most unlike each other. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Place = tuple[str, float]
"""Task and budget."""


class Chosen(NamedTuple):
    """A question, and the budget at which methods differ on it."""

    task: str
    budget: float
    doc: int


def choose(rights: Mapping[Place, Mapping[int, Sequence[float]]], most: int) -> list[Chosen]:
    """At most `most` questions, in turn from every task and budget, those with the largest variance first.

    `rights`: for each task and budget, by question: how right each method was, 0 to 1. A question is shown once, at
    the first budget that takes it; one on which all methods are equally right is never shown. Ties: lower number.
    """
    queues = {place: _ranked(questions) for place, questions in rights.items()}
    chosen: list[Chosen] = []
    seen: set[tuple[str, int]] = set()
    while len(chosen) < most and any(queues.values()):
        for (task, budget), queue in queues.items():
            while queue and (task, queue[0]) in seen:
                queue.pop(0)
            if queue and len(chosen) < most:
                seen.add((task, queue[0]))
                chosen.append(Chosen(task, budget, queue.pop(0)))
    return sorted(chosen, key=lambda one: list(rights).index(one[:2]))


def _ranked(questions: Mapping[int, Sequence[float]]) -> list[int]:
    variances = {doc: float(np.var(values)) for doc, values in questions.items()}
    return sorted((doc for doc, variance in variances.items() if variance > 0), key=lambda doc: (-variances[doc], doc))
