"""Model arguments as lmms-eval hands them over, turned into what they mean; unknown ones are errors."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import sys
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from adaptinfer_eval.method import Method

if TYPE_CHECKING:
    import torch


def plain(value: Any) -> Any:
    """Undo lmms-eval's reading of `key=value`: it keeps quotes and leaves `None` a word."""
    if isinstance(value, str):
        value = value.strip().strip("'\"")
        return None if value == "None" else value
    return value


def make_method(method: type[Method], options: Mapping[str, Any], other_known: Collection[str]) -> Method:
    """`method` with `options`, each turned into its field's type.

    A comma ends a model argument, so text options are written with `/`: `schedule=1:133/10:27/20:3`.
    Raises ValueError for an unknown option (`other_known`: names of arguments that are not the method's) and for a
    value of the wrong type.
    """
    fields = {field.name for field in dataclasses.fields(method) if field.init}
    for name in options:
        if name not in fields:
            known = sorted({*fields, *other_known})
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"unknown model argument {name!r}: {hint}{method.__name__} takes {', '.join(sorted(fields))}; "
                f"the wrapper takes {', '.join(sorted(other_known))}"
            )
    values = {}
    for name, given in options.items():
        value, wanted = plain(given), _type(method, name)
        if isinstance(value, bool) and bool not in (wanted, *get_args(wanted)):
            raise ValueError(f"model argument {name}={given!r}: true and false are no values for it")
        if value is not None and str in (wanted, *get_args(wanted)):
            value = str(value).replace("/", ",")
        try:
            values[name] = TypeAdapter(wanted).validate_python(value)
        except ValidationError as error:
            raise ValueError(f"model argument {name}={given!r}: {error.errors()[0]['msg']}") from None
    return method(**values)


def _type(method: type[Method], option: str) -> Any:
    """Of one option alone: what else a class annotates may name types that only a type checker imports."""
    owner = next(base for base in method.__mro__ if option in inspect.get_annotations(base))
    alone = SimpleNamespace(__annotations__={option: inspect.get_annotations(owner)[option]})
    return get_type_hints(alone, vars(sys.modules[owner.__module__]))[option]


def pick_device(device: str | torch.device | None) -> torch.device:
    """This process's device: the one asked for, else the accelerator there is, else the CPU.

    Processes of one machine take one accelerator each, by LOCAL_RANK, unless `device` names one by number.
    """
    import torch

    chosen = torch.device(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
    if chosen.type != "cpu" and chosen.index is None:
        return torch.device(chosen.type, int(os.environ.get("LOCAL_RANK", "0")))
    return chosen
