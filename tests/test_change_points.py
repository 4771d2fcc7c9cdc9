"""Change points of attention curves: what ruptures finds, in a fraction of its time."""

from __future__ import annotations

import time

import numpy as np
import pytest
import ruptures
from numpy.typing import NDArray

from adaptinfer_eval.analysis import change_points

RANDOM = np.random.default_rng(14)


def by_ruptures(curves: NDArray[np.generic]) -> list[int]:
    search = ruptures.Binseg(model="l2", jump=1)
    return [search.fit(np.cumsum(curve)).predict(n_bkps=1)[0] for curve in curves]


@pytest.mark.parametrize("layers", [4, 5, 6, 7, 8, 12, 28, 32, 40, 80, 150])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_random_curves(layers: int, dtype: type[np.floating]) -> None:
    curves = RANDOM.gamma(0.3, size=(60, layers)).astype(dtype)
    assert change_points(curves).tolist() == by_ruptures(curves)


def degenerate(layers: int) -> NDArray[np.float64]:
    """Curves on which gains are equal, or are but for rounding: nothing, as much everywhere, steps, and mirrors."""
    steps = np.tril(np.ones((layers, layers)))
    rising = np.arange(layers, dtype=float)
    single = np.eye(layers)
    return np.concatenate([np.zeros((1, layers)), steps, steps[:, ::-1], single, single + 0.1, [rising, rising[::-1]]])


@pytest.mark.parametrize("layers", [4, 5, 7, 8, 31, 32, 40])
@pytest.mark.parametrize("scale", [1.0, 0.1, 1 / 3, 1e-30, 1e-200, 1e100])
def test_degenerate_curves(layers: int, scale: float) -> None:
    curves = degenerate(layers) * scale
    assert change_points(curves).tolist() == by_ruptures(curves)


@pytest.mark.parametrize("scale", [1.0, 0.1, 1e-25, 1e15])
def test_degenerate_curves_in_single_precision(scale: float) -> None:
    curves = (degenerate(32) * scale).astype(np.float32)
    assert change_points(curves).tolist() == by_ruptures(curves)


def test_curves_that_differ_in_rounding_only() -> None:
    curves = 0.1 + RANDOM.normal(scale=1e-17, size=(200, 32))
    assert change_points(curves).tolist() == by_ruptures(curves)


def test_whole_numbers_and_columns_in_any_order() -> None:
    counts = RANDOM.integers(0, 9, size=(50, 32))
    assert change_points(counts).tolist() == by_ruptures(counts)
    strided = np.asfortranarray(counts / 7)[:, ::-1]
    assert change_points(strided).tolist() == by_ruptures(strided)


def test_a_curve_does_not_depend_on_those_beside_it() -> None:
    curves = RANDOM.gamma(0.3, size=(9000, 32))
    together = change_points(curves)
    assert (together[4090:4100] == [change_points(curve[None])[0] for curve in curves[4090:4100]]).all()
    assert change_points(curves[:0]).shape == (0,)


def test_a_thousand_samples_take_seconds() -> None:
    """58 tokens of each: the top tenth of 576."""
    curves = RANDOM.gamma(0.3, size=(58_000, 32)).astype(np.float32)
    start = time.perf_counter()
    found = change_points(curves)
    assert time.perf_counter() - start < 10
    assert found.min() >= 2
    assert found.max() <= 30


@pytest.mark.parametrize("shape", [(5, 2), (5, 3), (32,), (2, 3, 32)])
def test_too_few_layers_and_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(curves, layers\) is wanted, with 4 layers or more"):
        change_points(np.ones(shape))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e200])
def test_what_is_no_finite_number_is_refused(wrong: float) -> None:
    curves = np.ones((3, 32))
    curves[1, 5] = wrong
    with pytest.raises(ValueError, match="scale them down"):
        change_points(curves)
