"""A process that keeps its memory is given none anew; where the C library has no such setting, nothing happens."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from adaptinfer_eval.sweep.memory import keep_memory

FAULTS = """
import resource
import torch
from adaptinfer_eval.sweep.memory import keep_memory

assert {before}
given = []
for _ in range(40):
    for megabytes in (1, 8, 40):  # the last one is beyond what the library would ever keep by itself
        torch.ones(megabytes * 2**18)
    given.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(given[-1] - given[19])
"""


def faults(before: str) -> int:
    """Pages that a process is given while it makes large tensors that it has made before."""
    command = [sys.executable, "-c", FAULTS.format(before=before)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_what_was_given_once_is_not_given_again() -> None:
    """But for once or twice, where nothing that was given before is in one piece."""
    assert 4 * faults("keep_memory()") < faults("True")


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_memory()
