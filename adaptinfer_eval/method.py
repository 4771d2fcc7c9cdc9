"""What a method must say, and the lookup by name.

A method is one frozen dataclass in one file. It knows no model: it sees tensors and answers with scores
(`LayerMethod`, prunes between decoder layers) or with the tokens of an image that go on (`ImageMethod`, prunes before
the language model). It is found through the entry-point group `adaptinfer_eval.methods`.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

GROUP = "adaptinfer_eval.methods"


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Says how many vision tokens every layer of a model computes."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def entering(self, num_layers: int, vision_tokens: int, images: int = 1) -> list[int]:
        """Vision tokens that enter each of `num_layers` layers, for a prompt of `vision_tokens` and `images`."""

    @abstractmethod
    def describe(self, num_layers: int, vision_tokens: int, images: int = 1) -> str:
        """The schedule in force for such a prompt, for audits and logs."""


def available_methods() -> tuple[str, ...]:
    """Names of all installed methods, sorted."""
    return tuple(sorted(_installed()))


def get_method(name: str) -> type[Any]:
    """The `Method` class registered under `name`; ValueError naming the nearest when there is none.

    Its options are its own, so its constructor is not typed here.
    """
    return _load(name)


@cache  # of those found: looking through all distributions takes milliseconds
def _load(name: str) -> type[Any]:
    installed = _installed()
    if name not in installed:
        near = difflib.get_close_matches(name, installed, n=1, cutoff=0)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown method {name!r}: {hint}Known: {', '.join(sorted(installed))}")
    method = installed[name].load()
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise TypeError(f"entry point {installed[name].value!r} of method {name!r} is not a subclass of Method")
    return method


def _installed() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in found and found[entry.name].value != entry.value:
            raise ValueError(
                f"method {entry.name!r} is registered twice ({found[entry.name].value}, {entry.value}): rename one"
            )
        found[entry.name] = entry
    return found
