"""Peak memory: from the allocator of an accelerator; on the CPU, from the tensors that operations return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """`peak`: the most bytes that tensors made inside the block had at once, seen after every operation.

    What an operation allocates and frees within itself is not seen. Works on every device, and is slow.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: dict[StorageWeakRef, int] = {}
        self.total = 0  # of `sizes`, some of which may be gone
        self.peak: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {_storage(tensor) for tensor in tree_iter((args, kwargs)) if isinstance(tensor, Tensor)}
        result = func(*args, **kwargs)
        for tensor in tree_iter(result):
            # A view or an in-place operation returns memory that was there before.
            if isinstance(tensor, Tensor) and (storage := _storage(tensor)) not in given:
                self.sizes[storage] = tensor.untyped_storage().nbytes()
                self.total += self.sizes[storage]
        if self.total > self.peak:  # only now it matters what is gone
            self.sizes = {storage: size for storage, size in self.sizes.items() if not _gone(storage)}
            self.total = sum(self.sizes.values())
            self.peak = max(self.peak, self.total)
        return result


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _gone(storage: StorageWeakRef) -> bool:
    return bool(storage.expired())  # type: ignore[no-untyped-call]


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """The most bytes that `work` needs at once, beside what is allocated before it."""
    if device.type == "cpu":
        live = LiveBytes()
        with live:
            work()
        return live.peak
    torch.accelerator.synchronize(device)
    before: int = torch.accelerator.memory_allocated(device)
    torch.accelerator.reset_peak_memory_stats(device)
    work()
    torch.accelerator.synchronize(device)
    peak: int = torch.accelerator.max_memory_allocated(device)
    return peak - before
