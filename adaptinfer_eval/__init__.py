"""Training-free vision-token pruning methods, compared fairly over unmodified Hugging Face models.

Every name here is imported when it is first used: whoever wants a schedule or a cost does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptinfer_eval.cost import Audit, audit
    from adaptinfer_eval.methods.image import ImageMethod
    from adaptinfer_eval.methods.layer import LayerMethod
    from adaptinfer_eval.methods.method import Method, available_methods, get_method
    from adaptinfer_eval.methods.schedule import Schedule, Stage
    from adaptinfer_eval.methods.seen import Attention, Embeddings
    from adaptinfer_eval.methods.tower import Images, Look, Selection
    from adaptinfer_eval.methods.two_places import TwoPlaceMethod
    from adaptinfer_eval.pruning import pruned
    from adaptinfer_eval.pruning.prefix import SharedPrefix
    from adaptinfer_eval.pruning.trace import Trace

__all__ = [
    "Attention",
    "Audit",
    "Embeddings",
    "ImageMethod",
    "Images",
    "LayerMethod",
    "Look",
    "Method",
    "Schedule",
    "Selection",
    "SharedPrefix",
    "Stage",
    "Trace",
    "TwoPlaceMethod",
    "audit",
    "available_methods",
    "get_method",
    "pruned",
]
_MODULES = {
    "cost": ("Audit", "audit"),
    "methods.image": ("ImageMethod",),
    "methods.layer": ("LayerMethod",),
    "methods.method": ("Method", "available_methods", "get_method"),
    "methods.schedule": ("Schedule", "Stage"),
    "methods.seen": ("Attention", "Embeddings"),
    "methods.tower": ("Images", "Look", "Selection"),
    "methods.two_places": ("TwoPlaceMethod",),
    "pruning": ("pruned",),
    "pruning.prefix": ("SharedPrefix",),
    "pruning.trace": ("Trace",),
}

if not TYPE_CHECKING:  # a type checker would take every name for one that is here

    def __getattr__(name: str) -> Any:
        if name in {module.partition(".")[0] for module in _MODULES}:
            return import_module(f"{__name__}.{name}")
        for module, names in _MODULES.items():
            if name in names:
                value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
