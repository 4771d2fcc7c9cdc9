"""A text in rows of equal letters, token by token, so that tokens can be marked. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple


class Placed(NamedTuple):
    """A token's letters, without the space before them, and where they stand. `token`: its number."""

    token: int
    row: int
    column: int
    letters: str


def place(pieces: Sequence[str], marked: Collection[int], width: int) -> list[Placed]:
    """Where each token's letters stand in rows of `width` columns, broken between words and at line breaks.

    `pieces`: the tokens' texts; of those that have no letter to be seen, the `marked` ones are shown as ␣ or ↵.
    """
    placed: list[Placed] = []
    row = column = 0
    for token, piece in enumerate(pieces):
        letters = piece.strip()
        before = len(piece) - len(piece.lstrip())
        if not letters and token in marked:
            letters, before = "↵" if "\n" in piece else "␣", 0
        word = before + len(letters) + _rest_of_word(pieces[token + 1 :])
        if column and ("\n" in piece[:before] or (before and column + word > width)):
            row, column = row + 1, 0
        elif column:
            column += before
        for start in range(0, len(letters), width):  # a token longer than a row is cut
            part = letters[start : start + width]
            if column + len(part) > width:
                row, column = row + 1, 0
            placed.append(Placed(token, row, column, part))
            column += len(part)
        if letters == "↵":
            row, column = row + 1, 0
    return placed


def _rest_of_word(pieces: Sequence[str]) -> int:
    """Letters up to the next piece that begins with white space."""
    length = 0
    for piece in pieces:
        if piece[:1].isspace():
            break
        length += len(piece)
    return length
