"""Training batches: many questions packed behind one picture.

A packed row holds T text positions; each question sees the prompt's beginning, the picture and itself, exactly as if
it stood alone, because its positions restart and the mask hides its neighbours.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.mini.make.drills import DRILLS, Example, asked_by_harness
from tasks.mini.make.loop import DEVICE
from tasks.mini.make.questions import FAMILIES, Rng, Scene, choose
from tasks.mini.make.scene import GRID, PATCH, thing_parts


@dataclass(frozen=True)
class Packed:
    """All (B, T). `labels` is -100 where nothing is predicted, `question` -1 on padding, `family` likewise."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    question: Tensor
    family: Tensor


def pack(rows: list[list[tuple[Example, int]]], length: int) -> Packed:
    """Rows of (example, family number) that fit into `length` positions each."""
    shape = (len(rows), length)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels, question, family = (np.full(shape, fill, np.int64) for fill in (-100, -1, -1))
    for b, row in enumerate(rows):
        start = 0
        for number, ((sequence, asked), group) in enumerate(row):
            end = start + len(sequence) - 1  # the last token is only predicted
            ids[b, start:end] = sequence[:-1]
            labels[b, start:end] = np.where(asked[1:], sequence[1:], -100)
            positions[b, start:end] = np.arange(end - start)
            question[b, start:end], family[b, start:end] = number, group
            start = end
    return Packed(*(torch.from_numpy(array).to(DEVICE) for array in (ids, labels, positions, question, family)))


def draw_row(
    rng: Rng, scene: Scene, weights: NDArray[np.float64], drills: float, forms: tuple[str, ...], length: int
) -> list[tuple[Example, int]]:
    """Examples about one scene, with the numbers of their families, until `length` positions are full.

    `drills`: how likely a drill (family number 5) of `forms` is drawn, else a question of a family by `weights`. It
    ends because every scene has a sign and a shape, and some of `forms` ask about those."""
    row: list[tuple[Example, int]] = []
    used = 0
    while True:
        if rng.random() < drills:
            drill = DRILLS[choose(rng, forms)](rng, scene)
            drawn = [(drill, len(FAMILIES))] if drill[0] else []
        else:
            group = int(rng.choice(len(FAMILIES), p=weights))
            family = list(FAMILIES)[group]
            drawn = [(asked_by_harness(family, document), group) for document in FAMILIES[family](rng, scene)]
        for example, group in drawn:
            used += len(example[0]) - 1
            if used > length:
                return row
            row.append((example, group))


def best_patches(rng: Rng, scene: Scene, count: int) -> Tensor:
    """For the stages before all patches are shown: the patch of every part, topped up at random.

    Returns (count,) patch numbers in order."""
    score = rng.random(GRID * GRID)
    for thing in scene:
        for x, y in thing_parts(thing):
            score[y // PATCH * GRID + x // PATCH] += 1
    return torch.from_numpy(np.sort(np.argsort(-score)[:count]))
