"""Model arguments as lmms-eval hands them over, turned into what they mean; unknown ones are errors."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from adaptinfer_eval.methods.method import Method, option_kinds, option_type
from adaptinfer_eval.methods.schedule import no_percent

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
        value, kinds = plain(given), option_kinds(method, name)
        if name == "budget":
            no_percent(value)
        if str in kinds and isinstance(value, str | int) and not isinstance(value, bool):
            value = str(value).replace("/", ",")
        elif isinstance(value, str) or not kinds:  # a number in quotes is one; the method itself refuses what is none
            try:
                value = TypeAdapter(option_type(method, name)).validate_python(value)
            except ValidationError as error:
                raise ValueError(f"model argument {name}={given!r}: {error.errors()[0]['msg']}") from None
        values[name] = value
    return method(**values)


def pick_dtype(name: Any) -> str:
    """`name`, if torch knows a floating-point type by it, or "auto"; else a ValueError."""
    import torch

    dtype = getattr(torch, str(name), None)
    if name == "auto" or (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        return str(name)
    raise ValueError(f"dtype={name}: use auto (the checkpoint's), float32, float16 or bfloat16")


def pick_device(device: str | torch.device | None) -> torch.device:
    """This process's device: the one asked for, else the accelerator there is, else the CPU.

    Processes of one machine take one accelerator each, by LOCAL_RANK, unless `device` names one by number.
    ValueError for one that is not here.
    """
    import torch

    here = torch.accelerator.current_accelerator(check_available=True)
    try:
        chosen = torch.device(str(device or here or "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device={device} is none that torch knows: use cpu, or cuda or cuda:0") from error
    if chosen.type == "cpu":
        return chosen
    index = int(os.environ.get("LOCAL_RANK", "0")) if chosen.index is None else chosen.index
    count = torch.accelerator.device_count() if here is not None and chosen.type == here.type else 0
    if index >= count:
        raise ValueError(f"device={chosen.type}:{index}: this machine has {count} of them; leave device out or use cpu")
    return torch.device(chosen.type, index)
