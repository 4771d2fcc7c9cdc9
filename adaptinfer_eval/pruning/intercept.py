"""Read queries and keys where the model computes them: in its attention function.

The function that transformers looks up under the model's own implementation name is wrapped while a block is open.
The name stays the same because flash attention resolves its kernel by it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]
Handler = Callable[[AttentionFunction, nn.Module, Tensor, Tensor, Tensor, Tensor | None, dict[str, Any]], Any]
"""(original, module, query, key, value, attention_mask, keyword arguments) → what the original returns."""


@contextmanager
def intercepted(implementation: str, handler: Handler) -> Iterator[None]:
    """Send every call of the attention function named `implementation` through `handler`."""
    local = ALL_ATTENTION_FUNCTIONS._local_mapping
    before = local.get(implementation)
    registered = ALL_ATTENTION_FUNCTIONS.get(implementation)

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **kwargs: Any,
    ) -> Any:
        # "eager" is not registered: it is a function of each modeling file.
        original = registered or sys.modules[type(module).__module__].eager_attention_forward
        return handler(original, module, query, key, value, attention_mask, kwargs)

    local[implementation] = attention
    try:
        yield
    finally:
        if before is None:
            del local[implementation]
        else:
            local[implementation] = before
