"""What a method must say, and the lookup by name.

A method is one frozen dataclass in one file. It knows no model: it sees tensors and answers with scores
(`LayerMethod`, prunes between decoder layers) or with the tokens of an image that go on (`ImageMethod`, prunes before
the language model); a `TwoPlaceMethod` is one of each. It is found through the entry-point group
`adaptinfer_eval.methods`, or named by file, `path/to/mine.py:Mine`.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from math import isfinite, trunc
from numbers import Real
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, get_args, get_type_hints

from adaptinfer_eval.methods import by_file

if TYPE_CHECKING:
    from adaptinfer_eval.methods.image import ImageMethod
    from adaptinfer_eval.methods.layer import LayerMethod

GROUP = "adaptinfer_eval.methods"
KINDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    type(None): "None",
}
"""What an option may be, in words."""


class CostUnknown(ValueError):
    """How many tokens a method computes is not known before it sees an image."""


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Says how many vision tokens every layer of a model computes."""

    source: ClassVar[str] = ""
    """Where it was published: venue and arXiv number."""
    licence: ClassVar[str] = ""
    """Of its authors' code; "none" where that has none, which grants nothing."""
    instead_of_budget: ClassVar[Collection[str]] = ("schedule",)
    """Options that say how many tokens go on, so that a sweep's budgets are not for a method that is given one."""

    def __post_init__(self) -> None:
        """ValueError where an option is not of its type: True is no number, and neither are "64" or NaN."""
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            kinds = option_kinds(type(self), option.name)
            if value is option.default or not kinds:
                continue
            if not _fits(value, kinds):
                wanted = " or ".join(word for kind, word in KINDS.items() if kind in kinds)
                raise ValueError(f"{option.name}={value!r}: {self.name} takes {wanted}")
            if int in kinds and isinstance(value, Real) and not isinstance(value, bool):
                object.__setattr__(self, option.name, trunc(value))  # 2.0 is 2

    @property
    def name(self) -> str:
        return type(self).__name__

    def before(self, num_layers: int) -> ImageMethod | None:
        """What it does before a decoder of `num_layers` layers, if anything."""
        return None

    def inside(self, num_layers: int) -> LayerMethod | None:
        """What it does between the decoder's layers, if anything."""
        return None

    @abstractmethod
    def entering(self, num_layers: int, vision_tokens: int, images: int = 1) -> list[int]:
        """Vision tokens that enter each of `num_layers` layers, for a prompt of `vision_tokens` and `images`.

        ValueError where it cannot run; CostUnknown where that depends on the image.
        """

    @abstractmethod
    def describe(self, num_layers: int, vision_tokens: int, images: int = 1) -> str:
        """The schedule in force for such a prompt, for audits and logs."""


def available_methods() -> tuple[str, ...]:
    """Names of all installed methods, sorted."""
    return tuple(sorted(_installed()))


def get_method(name: str) -> type[Any]:
    """The `Method` class registered under `name`, or the one that `path/to/mine.py:Mine` names.

    ValueError, naming the nearest, where there is none. Its options are its own, so its constructor is not typed here.
    """
    return by_file.load(name, Method) if ":" in name else _load(name)


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


def option_type(method: type[Method], option: str) -> Any:
    """Of one option alone: what else a class annotates may name types that only a type checker imports."""
    owner = next(base for base in method.__mro__ if option in inspect.get_annotations(base))
    alone = SimpleNamespace(__annotations__={option: inspect.get_annotations(owner)[option]})
    return get_type_hints(alone, vars(sys.modules[owner.__module__]))[option]


@cache
def option_kinds(method: type[Method], option: str) -> frozenset[Any]:
    """Of KINDS, those that an option may be; empty where it may be something else too."""
    kinds = option_type(method, option)
    found = frozenset(get_args(kinds) or (kinds,))
    return found if found <= KINDS.keys() else frozenset()


def _fits(value: Any, kinds: frozenset[Any]) -> bool:
    if value is None or isinstance(value, bool | str):  # True is an int for Python, and a slip here
        return type(value) in kinds
    if not isinstance(value, Real) or not isfinite(value):
        return False
    return float in kinds or (int in kinds and value % 1 == 0)


def _installed() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in found and found[entry.name].value != entry.value:
            raise ValueError(
                f"method {entry.name!r} is registered twice ({found[entry.name].value}, {entry.value}): rename one"
            )
        found[entry.name] = entry
    return found
