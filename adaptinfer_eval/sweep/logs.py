"""The terminal is the sweep's own: what lmms-eval and its libraries print goes to a file."""

from __future__ import annotations

import contextlib
import io
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class _Log(io.TextIOBase):
    """Appends to a file; where the disk is full, what is printed gets lost, which is no reason to end."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("ab", buffering=0)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self.file.write(text.encode())
        return len(text)

    def close(self) -> None:
        self.file.close()
        super().close()


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Send what lmms-eval and its libraries print to a file, and the traceback of what ends the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log: Any = _Log(path)
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        import lmms_eval.evaluator
        import lmms_eval.models  # noqa: F401  (both set up loguru when first imported)
        from loguru import logger

        logger.remove()
        sink = logger.add(log, level="INFO")
        try:
            yield
        except Exception:
            traceback.print_exc()
            raise
        finally:
            logger.remove(sink)
