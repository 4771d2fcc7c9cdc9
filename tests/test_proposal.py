"""Layers proposed from the distribution of attention shifts: the paper's on distributions like its own, else none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from adaptinfer_eval.analysis import propose_layers

Counts = NDArray[np.float64]
PAPERS = {32: [1, 10, 20], 40: [1, 11, 22]}
"""Depth → what the paper reads from Figures 3 and A.6."""


def shape(layers: int, late: Counts | float, early: float) -> Counts:
    """Near zero but for the early layer, with a share `early` of all, and the late region, shaped as `late`."""
    peak, begin, end = PAPERS[layers]
    counts = np.zeros(layers)
    counts[begin : end + 1] = late
    counts *= (1 - early) / counts.sum()
    counts[peak] = early
    return counts


def plateau(random: np.random.Generator, width: int) -> Counts:
    return np.ones(width)


def ragged(random: np.random.Generator, width: int) -> Counts:
    return random.uniform(0.6, 1.4, width)


def bump(random: np.random.Generator, width: int) -> Counts:
    return np.exp(-(np.linspace(-1, 1, width) ** 2) * random.uniform(0.3, 1.2))


def slope(random: np.random.Generator, width: int) -> Counts:
    return np.linspace(0.5, 1.5, width)[:: random.choice([-1, 1])]


def hole(random: np.random.Generator, width: int) -> Counts:
    late = ragged(random, width)
    late[random.integers(1, width - 1)] = 0
    return late


def small_end(random: np.random.Generator, width: int) -> Counts:
    late = random.uniform(0.6, 1.4, width)
    late[-1] = 0.55
    return late


LATE: list[Callable[[np.random.Generator, int], Counts]] = [plateau, ragged, bump, slope, hole, small_end]


@pytest.mark.parametrize("layers", PAPERS)
@pytest.mark.parametrize("late", LATE)
def test_distributions_like_the_papers(layers: int, late: Callable[[np.random.Generator, int], Counts]) -> None:
    """Any division between the regions, neighbours of the early layer, little everywhere, counts of samples."""
    random = np.random.default_rng(3)
    peak, begin, end = PAPERS[layers]
    for _ in range(100):
        counts = shape(layers, late(random, end - begin + 1), early=random.uniform(0.05, 0.9))
        counts[[peak - 1, peak + 1]] += random.uniform(0, 0.5, 2) * counts[peak]
        level = np.median(counts[begin : end + 1])
        counts += random.uniform(0, 0.1, layers) * level
        assert propose_layers(counts) == PAPERS[layers]
        assert propose_layers((counts * 58_000).astype(int)) == PAPERS[layers]


def test_few_samples_are_read_alike() -> None:
    random = np.random.default_rng(4)
    found = [propose_layers(random.poisson(2000 * shape(32, ragged(random, 11), early=0.4))) for _ in range(500)]
    assert sum(layers == PAPERS[32] for layers in found) > 0.97 * len(found)


def test_scale_and_type_do_not_matter() -> None:
    counts = np.round(1000 * shape(32, 1.0, early=0.3))
    for other in (counts, counts * 1e-300, counts * 1e300, counts.astype(np.float32), counts.astype(int).tolist()):
        assert propose_layers(other) == PAPERS[32]


def test_the_early_layer_may_be_the_first_and_the_late_region_may_end_at_the_last_useful_layer() -> None:
    assert propose_layers([60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 8, 9, 7, 0]) == [0, 11, 14]


def without_shape(layers: int) -> dict[str, Counts]:
    random = np.random.default_rng(5)
    where = np.arange(layers)
    spike = np.where(where == 1, 100.0, 0.0)
    late = np.where((where >= 10) & (where <= 20), 1.0, 0.0)
    return {
        "empty": np.zeros(layers),
        "flat": np.ones(layers),
        "nearly flat": random.uniform(0.5, 1.5, layers),
        "one spike": spike,
        "one spike and noise": spike + random.uniform(0, 3, layers),
        "three spikes": spike + 50.0 * (where == 10) + 40.0 * (where == 20),
        "no early region": late,
        "one bump": np.exp(-(((where - layers / 2) / 4) ** 2)),
        "falling": np.exp(-where / 6),
        "rising": where.astype(float),
        "no end": spike + 10.0 * (where >= 10),
    }


@pytest.mark.parametrize("layers", PAPERS)
@pytest.mark.parametrize("kind", without_shape(32))
def test_other_distributions_propose_nothing(layers: int, kind: str) -> None:
    assert propose_layers(without_shape(layers)[kind]) == []


@pytest.mark.parametrize("layers", range(9))
def test_models_of_few_layers_have_usable_stages_or_none(layers: int) -> None:
    random = np.random.default_rng(6)
    for _ in range(100):
        found = propose_layers(random.exponential(size=layers) ** 3)
        assert found == sorted(set(found))
        assert all(0 <= layer <= layers - 2 for layer in found)


@pytest.mark.parametrize("wrong", [[1.0, -1.0], [1.0, np.nan], [np.inf, 1.0], np.ones((2, 3))])
def test_what_is_no_histogram_is_refused(wrong: list[float] | Counts) -> None:
    with pytest.raises(ValueError, match="one number per layer is wanted"):
        propose_layers(wrong)
