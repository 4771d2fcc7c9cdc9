"""The classes that lmms-eval loads: one for every method and family, made when it is asked for.

`<Family>Chat_<method>` asks with the messages that a task makes of its documents, `<Family>Simple_<method>` with a
task's text behind its images.
"""

from __future__ import annotations

from adaptinfer_eval.backbones import FAMILIES
from adaptinfer_eval.models.base import PrunedModel

_KINDS = {
    f"{family.title}{kind}": {"family_type": family, "is_simple": kind == "Simple"}
    for family in FAMILIES.values()
    for kind in ("Chat", "Simple")
}


def __getattr__(name: str) -> type[PrunedModel]:
    kind, _, method = name.partition("_")
    if kind not in _KINDS or not method:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = type(name, (PrunedModel,), {**_KINDS[kind], "method_name": method, "__module__": __name__})
    return globals().setdefault(name, made)  # type: ignore[no-any-return]
