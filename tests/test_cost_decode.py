"""A decode step on a pruned cache computes what the bare model would on a cache of that length, and nothing else."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from tiny_models import METHODS, decoder
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import adaptinfer_eval as ae

BEFORE, VISION, AFTER = 5, 64, 7
ROTARY = {"bmm", "cat", "cos", "sin", "mul", "_to_copy", "arange"}
"""What makes cos and sin of a position."""


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations; views, which compute nothing, are left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name != "_unsafe_view":
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


def prefill(model: Any, length: int) -> Any:
    return model(inputs_embeds=torch.randn(2, length, 32), use_cache=True, logits_to_keep=1).past_key_values


def step(model: Any, cache: Any) -> tuple[Tensor, Counter[str]]:
    with Operations() as operations:
        logits = model(input_ids=torch.tensor([[3], [4]]), past_key_values=cache, use_cache=True).logits
    return logits, operations.seen


# ToMe works in the vision tower, and a bare decoder has none.
@pytest.mark.parametrize(("name", "options"), [(name, options) for name, options in METHODS if name != "tome"])
@torch.no_grad()
def test_a_decode_step_has_no_extra_operations(name: str, options: dict[str, Any]) -> None:
    model, method = decoder("llama"), ae.get_method(name)(**options)
    mask = torch.zeros(2, BEFORE + VISION + AFTER, dtype=torch.bool)
    mask[:, BEFORE : BEFORE + VISION] = True
    with ae.pruned(model, method, vision_mask=mask):
        cache = prefill(model, mask.shape[1])
        bare_cache = copy.deepcopy(cache)
        logits, pruned = step(model, cache)
    bare_logits, bare = step(model, bare_cache)
    if getattr(method, "positions", "keep") == "keep":
        assert pruned <= bare
        assert torch.equal(logits, bare_logits)
    else:  # one position per stage, made once for all its layers
        extra = pruned - bare
        assert not bare - pruned
        assert set(extra) <= ROTARY
        stages = options["schedule"].count(":")
        assert extra["cos"] == extra["sin"] == stages
