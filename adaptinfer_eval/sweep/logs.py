"""The terminal is the sweep's own: what lmms-eval and its libraries print goes to a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Send what lmms-eval and its libraries print to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("a", encoding="utf-8", buffering=1)
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        import lmms_eval.evaluator
        import lmms_eval.models  # noqa: F401  (both set up loguru when first imported)
        from loguru import logger

        logger.remove()
        sink = logger.add(log, level="INFO")
        try:
            yield
        finally:
            logger.remove(sink)
