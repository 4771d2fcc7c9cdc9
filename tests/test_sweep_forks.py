"""The processes that workers are: where there is no GPU, forked from one that has imported all they need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
from shell import default_interrupt

from adaptinfer_eval.sweep.forks import context_of_workers

NEEDED = {"torch", "lmms_eval.evaluator", "adaptinfer_eval.sweep.worker"}


def tell_imported(pipe: Connection) -> None:
    pipe.send(NEEDED & set(sys.modules))


@pytest.mark.parametrize(("gpus", "imported"), [([], NEEDED), (["0"], set())])
def test_workers_have_imported_all_they_need_before_they_start(gpus: list[str], imported: set[str]) -> None:
    """But where there are GPUs, whose driver may not survive a fork."""
    context = context_of_workers(gpus)
    ours, theirs = context.Pipe()
    process = context.Process(target=tell_imported, args=(theirs,))
    process.start()
    assert ours.recv() == imported
    process.join()


def test_where_nothing_can_be_forked_from_workers_start_by_themselves(tmp_path: Path) -> None:
    """The path of a socket has about a hundred characters at most."""
    (temporary := tmp_path / ("long" * 25)).mkdir()
    code = "from adaptinfer_eval.sweep.forks import context_of_workers as c; print(c([]).get_start_method())"
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env={**os.environ, "TMPDIR": str(temporary)}, capture_output=True, check=True)
    assert told.stdout == b"spawn\n"


@pytest.mark.parametrize("memory", [20, 150], ids=["first imports", "torch"])
def test_ctrl_c_ends_what_imports_ahead_without_a_word(memory: int, tmp_path: Path) -> None:
    """`memory`: MB that it has at that time. A terminal interrupts all processes of a command."""
    process = subprocess.Popen(
        [sys.executable, "-m", "adaptinfer_eval.cli", "run", "ci", f"output={tmp_path / 'out'}"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=default_interrupt,
    )
    ahead: list[psutil.Process] = []
    while process.poll() is None and not any(each.memory_info().rss > memory * 1e6 for each in ahead):
        children = psutil.Process(process.pid).children()
        ahead = [child for child in children if "forkserver" in " ".join(child.cmdline())]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (130, -signal.SIGINT), errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(ahead, timeout=120)
    assert not alive
