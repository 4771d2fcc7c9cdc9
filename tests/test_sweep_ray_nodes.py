"""The Slurm script on two Ray nodes, processes of this machine, one of which is killed during the sweep.

Where this user may mount, the second node does not see the results, and has a copy of the checkpoint of its own.
"""

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
ALONE = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
# In place of Slurm's commands: every node is this machine, under an address of its own.
STANDINS = {
    "scontrol": "echo 127.0.0.1; echo 127.0.0.2",
    "srun": """
for option in "$@"; do case $option in --nodelist=*) node=${option#*=};; esac; done
while [[ $1 == --* ]]; do shift; done
set -- "$@" --node-ip-address="$node"
if [[ $node == 127.0.0.2 ]]; then exec "$SECOND" "$@"; fi
exec "$@"
""",
    "second": 'exec "$@"',
    "second-alone": """
exec unshare --mount bash -ec 'cd; mount --bind copy tiny; mount -t tmpfs none results; exec "$@"' - "$@"
""",
    "broken": "echo no such node >&2; exit 1",
}


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """That of a job on two nodes of a core each, with what an older Ray left at home; what is left of it is ended."""
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, script in STANDINS.items():
        path = commands / name
        path.write_text(f"#!/usr/bin/env bash\n{script}\n")
        path.chmod(0o755)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    job = str(os.getpid())
    found = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    slurm = {"SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "both", "SLURM_CPUS_PER_TASK": "1"}
    where = {"PATH": found, "HOME": str(tmp_path), "SECOND": "second-alone" if ALONE else "second"}
    (temporary := tmp_path / "as long as those of jobs often are").mkdir()
    # Ray's workers would wait for whatever else runs here.
    yield {**os.environ, **slurm, **where, "TMPDIR": str(temporary), "RAY_worker_niceness": "0"}
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
    shutil.copytree(checkpoint, tmp_path / "copy")
    (tmp_path / "results").mkdir()
    sweep = small_sweep(checkpoint, tmp_path / "results" / "nodes", *given)
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


def test_a_node_that_does_not_start_ends_the_job(environment: dict[str, str]) -> None:
    broken = environment | {"SECOND": "broken"}
    command = [str(ROOT / "docs" / "slurm.sh"), "mini"]
    ended = subprocess.run(command, env=broken, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert ended.returncode == 1
    assert "Ray ended on 127.0.0.2 before the sweep began" in ended.stderr
    assert "no such node" in ended.stderr
