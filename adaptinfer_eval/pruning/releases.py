"""What differs between the releases of transformers that are supported: the name of the cache.

5.24 calls `cache` what was `past_key_values` before, and still takes the old name: a hook may see either.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from transformers.masking_utils import create_causal_mask

_OLD = "past_key_values"
CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else _OLD
"""The cache's name in forwards, masks and outputs of the installed release."""


def cache_of(named: Mapping[str, Any]) -> Any:
    """The cache among a forward's arguments or outputs, whichever name the caller gave it; None where there is none."""
    return next((named[name] for name in (CACHE, _OLD) if named.get(name) is not None), None)
