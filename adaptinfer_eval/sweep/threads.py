"""How many threads a worker computes with: those of all workers of a machine together are no more than its cores.

A worker prepares its next batch in a thread beside the model, so one core of its share is left to that where its share
has two. Who asks for more workers than there are cores, or sets OMP_NUM_THREADS, decides instead.
"""

from __future__ import annotations

import os
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def use_threads(workers: int) -> int:
    """Let torch compute in this process, one of `workers` on this machine, with its share; returns the threads."""
    import torch

    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(threads_of_each(workers, cores()))
    return torch.get_num_threads()


def threads_of_each(workers: int, cores: int) -> int:
    """Of each of `workers`, beside the one that prepares its batches; at least one."""
    return max(1, cores // workers - 1)


def cores() -> int:
    """Cores for this process: those that it is bound to, but no more than its container's share of time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(bound, _quota(CONTROL_GROUPS))))


def _quota(root: Path) -> float:
    """Seconds of CPU time per second that a container gets, as both versions of control groups say it."""
    both = [root / "cpu.max"], [root / "cpu" / f"cpu.cfs_{name}_us" for name in ("quota", "period")]
    try:
        allowed, period = " ".join(path.read_text() for path in both[not both[0][0].exists()]).split()
    except OSError:  # not Linux, or no limits there
        return float("inf")
    return float("inf") if allowed in ("max", "-1") else float(allowed) / float(period)
