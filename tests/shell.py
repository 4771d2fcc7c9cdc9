"""The command line as a shell calls it, in this process."""

from __future__ import annotations

import sys

import pytest

from adaptinfer_eval.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of `adaptinfer-eval ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["adaptinfer-eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)
