"""What models are called in VLMEvalKit: all that answers depend on is in a name, which its folders of results go by."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any

from adaptinfer_eval.backbones import FAMILIES
from adaptinfer_eval.models import METHODS
from adaptinfer_eval.sweep.config import SweepError, nearest
from adaptinfer_eval.sweep.files import file_name

Arguments = Mapping[str, Any]
HOW = ("batch_size", "workers", "device", "device_map")
"""Arguments that answers do not depend on."""


def methods() -> list[str]:
    """Names of the installed methods."""
    return sorted({entry.name for entry in entry_points(group=METHODS)})


def model_name(method: str, family: str, budget: float | None = None, arguments: Arguments | None = None) -> str:
    """`adaptinfer_llava_64`; with what else is not as by default: `adaptinfer_llava_64_conv-hf`."""
    others = {key: value for key, value in (arguments or {}).items() if key not in HOW}
    if others.get("prompts") == "papers":
        del others["prompts"]
    parts = [method, family, *([] if budget is None else [f"{budget:g}"])]
    return file_name("_".join([*parts, *(f"{key}-{value}" for key, value in sorted(others.items()))]))


def read_name(name: str) -> tuple[str, str, float | None] | None:
    """Method, family and budget of `METHOD_FAMILY` or `METHOD_FAMILY_BUDGET`; None for any other name."""
    for method in methods():
        for family in FAMILIES:
            rest = name.removeprefix(f"{method}_{family}")
            if rest == "" or (rest != name and rest[0] == "_" and _is_number(rest[1:])):
                return method, family, float(rest[1:]) if rest else None
    return None


def with_budget(budget: float | None) -> dict[str, Any]:
    """The model argument that says it."""
    if budget is None:
        return {}
    return {"budget": int(budget) if budget == int(budget) else budget}


def register(models: Mapping[str, Arguments], names: Iterable[str], common: Arguments) -> None:
    """Make VLMEvalKit know `models`, every method with every family, and, of `names`, those that say a budget.

    `common`: arguments of all. The same classes can be named in its `--config`: `PrunedVLM`, or by method and family.
    A name of its own is left to it. Imports VLMEvalKit.
    """
    import vlmeval.vlm
    from vlmeval.config import supported_VLM

    from adaptinfer_eval.vlmevalkit.model import PrunedVLM

    vlmeval.vlm.PrunedVLM = PrunedVLM
    found: dict[str, Arguments] = {}
    for method in methods():
        for family in FAMILIES:
            found[f"{method}_{family}"] = own = {"method": method, "family": family, **common}
            setattr(vlmeval.vlm, f"{method}_{family}", functools.partial(PrunedVLM, **own))
    for name in names:
        if name not in found and (read := read_name(name)):
            found[name] = {"method": read[0], "family": read[1], **with_budget(read[2]), **common}
    for name, arguments in {**found, **models}.items():
        there = supported_VLM.get(name)
        if there is None or there.func is PrunedVLM:
            supported_VLM[name] = functools.partial(PrunedVLM, **arguments)
        elif name in models:
            raise SweepError(f"VLMEvalKit has a model {name} of its own: give the method another name")


def check_method(name: str) -> None:
    """SweepError for a method that is not installed."""
    if name not in methods():
        raise SweepError(f"no method {name!r}{nearest(name, methods())}")


def _is_number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
