"""Compact letter display: which of several do not differ, by shared letters.

Insert and absorb (Piepho, "An Algorithm for a Letter-Based Representation of All-Pairwise Comparisons", Journal of
Computational and Graphical Statistics 13, 2004).
"""

from __future__ import annotations

from collections.abc import Collection
from string import ascii_letters


def compact_letters(size: int, different: Collection[tuple[int, int]]) -> list[str]:
    """Letters of items 0 … size - 1: two share one exactly when their pair is not among the `different`.

    The first items get the first letters.
    """
    groups = [frozenset(range(size))]
    for pair in sorted(different):
        split = [group - {item} for group in groups if group.issuperset(pair) for item in pair]
        kept = [group for group in groups if not group.issuperset(pair)]
        candidates = list(dict.fromkeys(kept + split))
        groups = [group for group in candidates if not any(group < other for other in candidates)]
    groups.sort(key=sorted)
    return ["".join(_letter(number) for number, group in enumerate(groups) if item in group) for item in range(size)]


def _letter(number: int) -> str:
    """a … Z, then a1 … Z1, and so on."""
    again, place = divmod(number, len(ascii_letters))
    return ascii_letters[place] + (str(again) if again else "")
