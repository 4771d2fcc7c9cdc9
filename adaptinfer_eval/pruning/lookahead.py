"""The attention of a layer that has not run yet, for little more than its keys.

The layer's own attention module runs up to its attention function. Of the queries only the rows that are looked at are
projected, of the values none; and when the layer then runs, the keys of the tokens that went on are used again.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from adaptinfer_eval.methods.seen import Rotary, gather_tokens


class Seen(Exception):
    """Raised in the attention function: ends a look-ahead as soon as the queries and keys are there."""


class LookAhead:
    """Looks ahead into the attention modules `attentions`; `running` while it does."""

    def __init__(self, attentions: Iterable[Any]) -> None:
        self.attentions = list(attentions)
        self.running = False
        self.rows = self.length = 0
        self.keys: dict[nn.Module, Tensor] = {}

    def hook(self) -> list[RemovableHandle]:
        handles = []
        for attention in self.attentions:
            for name in ("q_proj", "k_proj", "v_proj"):
                if (projection := getattr(attention, name, None)) is not None:
                    handles.append(projection.register_forward_pre_hook(functools.partial(self._before, name)))
                    handles.append(projection.register_forward_hook(functools.partial(self._after, name)))
        return handles

    def run(
        self, layer: Any, hidden: Tensor, rotary: Rotary, mask: Tensor | None, rows: int, given: Mapping[str, Any]
    ) -> None:
        """Run `layer` up to its attention function, without touching the cache; `rows`: last tokens that ask.

        `given`: to the layer; what its attention wants of it beside the usual goes on to it.
        """
        # With a device map the next layer may be on another device, which its own hook would move the input to.
        device = getattr(getattr(layer, "_hf_hook", None), "execution_device", None)
        if device is not None:
            hidden = hidden.to(device)
        usual = {
            "hidden_states": layer.input_layernorm(hidden),
            "position_embeddings": tuple(part.to(hidden.device) for part in rotary),
            "attention_mask": mask,
        }
        wanted = inspect.signature(layer.self_attn.forward).parameters.values()
        more = {p.name: given[p.name] for p in wanted if p.default is p.empty and p.name in given}
        self.running, self.rows, self.length = True, rows, hidden.shape[1]
        try:
            layer.self_attn(**{**more, **usual})
        except Seen:
            pass
        finally:
            self.running = False

    def keep(self, order: Tensor | None) -> None:
        """Of the keys, keep those of the tokens `order` (B, n') for the layer's own run; None: keep none."""
        self.keys = {} if order is None else {module: gather_tokens(keys, order) for module, keys in self.keys.items()}

    def _before(self, name: str, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self.running and name != "k_proj":
            rows = self.rows if name == "q_proj" else 0
            return (args[0][:, self.length - rows :], *args[1:])
        if not self.running and module in self.keys:
            return (args[0][:, :0], *args[1:])
        return None

    def _after(self, name: str, module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not self.running:
            return self.keys.pop(module, None)
        if name == "k_proj":
            self.keys[module] = output
            return None
        return F.pad(output, (0, 0, self.length - output.shape[1], 0))
