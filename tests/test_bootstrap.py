"""Paired bootstrap: against its theory, paired, deterministic; and letters that say exactly which pairs differ."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from sweep_folder import units

from adaptinfer_eval.report.bootstrap import differ, interval, mean_units, resampled_ratios, resampled_scores
from adaptinfer_eval.report.letters import compact_letters
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.units import Units


def drawn(values: Sequence[float]) -> Units:
    ids = tuple(map(str, range(len(values))))
    return Units("mean", 100.0, ids, ("",) * len(values), np.array(values, dtype=float))


def test_spread_of_a_mean_is_the_standard_error() -> None:
    scored = units("gqa", 0.7, questions=400)
    scores = resampled_scores([scored], "GQA", 4000)[:, 0]
    share = scored.values.mean()
    assert scores.mean() == pytest.approx(scored.score(), abs=0.2)
    assert scores.std() == pytest.approx(100 * np.sqrt(share * (1 - share) / 400), rel=0.05)


def test_mme_is_drawn_within_its_categories() -> None:
    """Categories of one value each have no spread, however much they differ and few they are."""
    categories = ("a",) * 2 + ("b",) * 30
    scored = Units("sum of category means", 100.0, tuple(map(str, range(32))), categories, np.r_[[2.0] * 2, [0.5] * 30])
    assert scored.score() == 250
    assert np.ptp(resampled_scores([scored], "MME", 50)) == 0
    mixed = units("mme", 0.6, questions=80)
    scores = resampled_scores([mixed], "MME", 4000)[:, 0]
    variance = sum(mixed.values[stratum].var() / len(stratum) for stratum in mixed.strata())
    assert scores.std() == pytest.approx(100 * np.sqrt(variance), rel=0.05)


def test_methods_and_vanilla_are_scored_on_the_same_draw() -> None:
    """A method that is right where vanilla is has the ratio 100 in every resample, and no difference from its twin."""
    vanilla, other = units("gqa", 0.8), units("gqa", 0.5)
    ratios = resampled_ratios([[vanilla], [other], [other]], [vanilla], ["GQA"])
    assert (ratios[:, 0] == 100).all()
    assert interval(ratios[:, 0]) == (100, 100)
    assert not differ(ratios[:, 1], ratios[:, 2])
    assert differ(ratios[:, 0], ratios[:, 1])


def test_pairing_finds_a_difference_that_overlapping_intervals_hide() -> None:
    better, worse = drawn([1] * 60 + [0] * 40), drawn([1] * 54 + [0] * 46)
    scores = resampled_scores([better, worse], "GQA")
    first, second = interval(scores[:, 0]), interval(scores[:, 1])
    assert first is not None
    assert second is not None
    assert second[1] > first[0]
    assert differ(scores[:, 0], scores[:, 1])


def test_tasks_are_drawn_independently() -> None:
    """The variance of a mean over two tasks is half of one's; the same draw for both would leave it as it is."""
    full, half = drawn([1.0] * 100), drawn([1.0] * 50 + [0.0] * 50)
    one = resampled_ratios([[half]], [full], ["GQA"])
    two = resampled_ratios([[half, half]], [full, full], ["GQA", "SQA"])
    assert two.var() / one.var() == pytest.approx(0.5, abs=0.07)


def test_the_same_scores_give_the_same_draws_whatever_else_is_scored() -> None:
    several = [units("gqa", right) for right in (0.3, 0.5, 0.7)]
    together = resampled_scores(several, "GQA")
    assert (together == resampled_scores(several, "GQA")).all()
    assert (together[:, [1]] == resampled_scores(several[1:2], "GQA")).all()
    assert (together != resampled_scores(several, "SQA")).any()


def test_without_a_right_answer_of_vanilla_there_is_no_interval() -> None:
    ratios = resampled_ratios([[drawn([1, 0, 0])]], [drawn([0, 1, 0])], ["GQA"])
    assert interval(ratios[:, 0]) is None


def test_only_the_same_units_can_be_compared() -> None:
    with pytest.raises(SweepError, match="other questions"):
        resampled_scores([units("gqa", 0.5), units("gqa", 0.5, questions=99)], "GQA")
    assert mean_units([drawn([1, 0]), drawn([1, 1])]).score() == 75


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_letters_are_shared_exactly_by_those_that_do_not_differ(size: int) -> None:
    rng = np.random.default_rng(size)
    pairs = list(combinations(range(size), 2))
    for share in (0.0, 0.3, 0.6, 1.0):
        different = {pair for pair in pairs if rng.random() < share}
        letters = compact_letters(size, different)
        assert all(letters)
        for a, b in pairs:
            assert bool(set(letters[a]) & set(letters[b])) == ((a, b) not in different)


def test_letters_of_a_row_that_fades() -> None:
    assert compact_letters(3, {(0, 2)}) == ["a", "ab", "b"]
    assert compact_letters(3, {(0, 1), (0, 2), (1, 2)}) == ["a", "b", "c"]
