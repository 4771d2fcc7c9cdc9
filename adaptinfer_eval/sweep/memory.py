"""A process that computes on a CPU keeps the memory that it was given.

The C library hands a large tensor's memory back as soon as it is freed, and the system fills it with zeros before
anyone gets it again: of a small model's time, whose tensors live for a moment, that is a tenth.
"""

from __future__ import annotations

import ctypes

# glibc's malloc.h
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
SETTINGS = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 2**26}


def keep_memory() -> bool:
    """From now on, until this process ends; False where the C library (not glibc) has no such settings."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; another system
        return False
    return all(mallopt(setting, value) for setting, value in SETTINGS.items())
