"""A family's own model arguments: a field each, checked when it is made."""

from __future__ import annotations

import functools
from dataclasses import field
from typing import Any


def choice(*known: str) -> Any:
    """A field that is one of `known`, the first by default."""

    def check(name: str, given: Any) -> str:
        if given not in known:
            raise ValueError(f"{name}={given!r}: known are {', '.join(known)}")
        return str(given)

    return field(default=known[0], metadata={"check": check})


def number(default: int, what: str) -> Any:
    """A field that is a whole number of at least 1; `what` it is the number of, for the error."""
    return field(default=default, metadata={"check": functools.partial(whole, what=what)})


def whole(name: str, given: Any, what: str = "a whole number") -> int:
    """`given`, a number or one as a text, as a whole number; ValueError unless it is one of at least 1."""
    try:
        number = 0.0 if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        number = 0.0
    if number < 1 or number % 1:
        raise ValueError(f"{name}={given}: {what}, at least 1")
    return int(number)


def number_or_none(what: str) -> Any:
    """A field that is a whole number of at least 1, or None, the default."""

    def check(name: str, given: Any) -> int | None:
        return None if given is None else whole(name, given, what)

    return field(default=None, metadata={"check": check})
