"""Counting the operations that a device is sent, what launching costs is proportional to, and their arithmetic."""

from __future__ import annotations

from collections import Counter
from math import log2
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

SORTING = ("sort", "argsort", "topk")


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """`seen`: operations inside the block by name; views, which compute nothing, are left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name != "_unsafe_view":
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


class Arithmetic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """`flops`: operations of arithmetic inside the block; `launches`: operations that compute something.

    Two for each multiply-add of a product, as torch's FlopCounterMode counts them; of everything else, one for each
    number that goes in or comes out, whichever are more, and for sorting n numbers n log2 n.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0.0
        self.launches = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in flop_registry:
            with self:  # in inference mode, products hide in operations that are made of others
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        found = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if func.is_view or name == "_unsafe_view":
            return found
        self.launches += 1
        if func.overloadpacket in flop_registry:
            self.flops += flop_registry[func.overloadpacket](*args, **kwargs, out_val=found)
            return found
        sizes = [leaf.numel() for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor)]
        numbers = max(sizes, default=0)
        self.flops += numbers * max(log2(numbers), 1) if name in SORTING and numbers else numbers
        return found
