"""The command line as a shell calls it, in this process."""

from __future__ import annotations

import signal
import sys

import pytest

from adaptinfer_eval.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of `adaptinfer-eval ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["adaptinfer-eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def default_interrupt() -> None:
    """For a new process: Ctrl+C interrupts it, even where the tests run in a shell's background, which ignores that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
