"""The releases of transformers: which is the newest that was tested, and what differs: the name of the cache.

5.24 calls `cache` what was `past_key_values` before, and still takes the old name: a hook may see either.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import transformers
from loguru import logger
from packaging.version import Version
from transformers.masking_utils import create_causal_mask

_OLD = "past_key_values"
CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else _OLD
"""The cache's name in forwards, masks and outputs of the installed release."""


NEWEST_TESTED = "5.24"


@functools.cache
def say_if_untested() -> None:
    """One line, once, where transformers is newer than any release that all tests ran on."""
    installed = Version(transformers.__version__)
    if installed.release[:2] > Version(NEWEST_TESTED).release:
        logger.warning(
            f"transformers {installed} is newer than {NEWEST_TESTED}, the newest release that was tested: pruning is "
            "checked as it runs, an error means that it did not happen; adaptinfer-eval doctor tries every method"
        )


def cache_of(named: Mapping[str, Any]) -> Any:
    """The cache among a forward's arguments or outputs, whichever name the caller gave it; None where there is none."""
    return next((named[name] for name in (CACHE, _OLD) if named.get(name) is not None), None)
