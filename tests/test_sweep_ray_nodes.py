"""The Slurm script on two Ray nodes, processes of this machine, one of which is killed during the sweep."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from lmms_tiny import save_tiny_llava
from sweeps import run, same_results, small_sweep

pytest.importorskip("ray")

ROOT = Path(__file__).parent.parent
SECONDS = 240
# In place of Slurm's commands: every node is this machine, under an address of its own.
STANDINS = {
    "scontrol": "echo 127.0.0.1; echo 127.0.0.2",
    "srun": 'for o in "$@"; do case $o in --nodelist=*) node=${o#*=};; esac; done\n'
    'while [[ $1 == --* ]]; do shift; done\nexec "$@" --node-ip-address="$node"',
}


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """That of a job on two nodes of a core each; what is left of it is ended."""
    for name, script in STANDINS.items():
        path = tmp_path / name
        path.write_text(f"#!/usr/bin/env bash\n{script}\n")
        path.chmod(0o755)
    job = str(os.getpid())
    found = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "both", "SLURM_CPUS_PER_TASK": "1"}
    # Ray's sockets need a short path; its workers would wait for whatever else runs here.
    yield {**os.environ, **slurm, "PATH": found, "TMPDIR": "/tmp", "RAY_worker_niceness": "0"}
    for process in psutil.process_iter(["cmdline"]):
        if f"/tmp/ray-{job}" in " ".join(process.info["cmdline"] or ()):
            process.kill()
    shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)


def second_node(job: str) -> list[psutil.Process]:
    """The processes of the second node, once one of them answers."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if f"/tmp/ray-{job}" in " ".join(words) and "--node_ip_address=127.0.0.2" in words:
            children = process.children(recursive=True)
            if any("ray::Actor" in " ".join(child.cmdline()) for child in children):
                return [process, *children]
    return []


def test_a_killed_node_costs_no_cell(tmp_path: Path, environment: dict[str, str]) -> None:
    checkpoint = save_tiny_llava(tmp_path / "tiny", layers=8)
    given = ("limit=40", "batch_size=4", "workers=2")
    sweep = small_sweep(checkpoint, tmp_path / "nodes", *given)
    overrides = ["methods=vanilla,adaptinfer", "budgets=16", "tasks=mini_mme,mini_scienceqa", *given]
    where = [f"pretrained={checkpoint}", f"output={sweep.output}"]
    command = [str(ROOT / "docs" / "slurm.sh"), "mini", *overrides, *where]
    log = tmp_path / "log"
    with log.open("w") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as script:
        deadline = time.monotonic() + SECONDS
        killed: list[psutil.Process] = []
        while script.poll() is None and time.monotonic() < deadline:
            written = [path.read_bytes() for path in Path(sweep.output, "journal").glob("*.jsonl")]
            if not killed and any(lines.count(b"\n") > 1 for lines in written):
                killed = second_node(environment["SLURM_JOB_ID"])
                for process in killed:
                    process.send_signal(signal.SIGKILL)
            time.sleep(0.05)
        script.kill()
    assert killed, log.read_text()
    assert script.returncode == 0, log.read_text()
    for path in Path(sweep.output, "journal").glob("*.jsonl"):
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        docs = [answer["doc"] for line in lines for answer in json.loads(line)["answers"]]
        assert sorted(docs) == list(range(40))  # each once
    alone = small_sweep(checkpoint, tmp_path / "alone", *given, "workers=1")
    run(alone)
    assert same_results(sweep, alone)
