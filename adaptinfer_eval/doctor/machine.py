"""What there is to compute with: accelerators, flash attention, space on the disk, memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from adaptinfer_eval.doctor.finding import Finding
from adaptinfer_eval.sweep.config import SweepConfig

GB = 1e9
LITTLE, NOTHING = 1 * GB, 0.05 * GB
"""Bytes free for results: with less than the first a long sweep may fill the disk, with less than the other any."""


def accelerator(config: SweepConfig) -> Iterator[Finding]:
    """Does the device that workers will take compute, and are there enough of them?"""
    import torch

    from adaptinfer_eval.sweep.pools.processes import visible_gpus
    from adaptinfer_eval.sweep.threads import cores, threads_of_each

    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        workers = config.workers or 1
        each = os.environ.get("OMP_NUM_THREADS") or threads_of_each(workers, cores())
        text = f"none: {cores()} CPU cores, {workers} workers with {each} threads each"
        if gpus := _nvidia_gpus():
            remedy = "install the torch build that fits the driver, see pytorch.org/get-started; CUDA_VISIBLE_DEVICES?"
            yield Finding("accelerator", "warning", f"torch {torch.__version__} does not see {gpus}", remedy)
        else:
            yield Finding("accelerator", "ok", text)
        return
    dtype = torch.float32 if config.dtype == "auto" else getattr(torch, config.dtype)
    ones = torch.ones(64, 64, device=device, dtype=dtype)
    if float((ones @ ones).sum().cpu()) != 64.0**3:
        yield Finding("accelerator", "fails", f"{device} computes wrong sums", "use another one, look at its driver")
        return
    count, each, workers = len(visible_gpus()), config.gpus_per_worker, config.workers or 1
    name = torch.cuda.get_device_name() if device.type == "cuda" else str(device)
    if count and workers * each > count:
        text = f"{workers} workers with {each} GPUs each need {workers * each}, there are {count}"
        yield Finding("accelerator", "fails", text, f"workers={max(1, count // each)}, or a smaller gpus_per_worker")
    else:
        yield Finding("accelerator", "ok", f"{count or 1} × {name}")


def flash_attention(config: SweepConfig) -> Iterator[Finding]:
    """Is it there, does it compute what sdpa computes, and does the sweep ask for it?"""
    import torch
    from transformers.utils.import_utils import is_flash_attn_2_available

    wanted = "flash" in str(config.model_args.get("attn_implementation"))
    if not is_flash_attn_2_available():
        if wanted:
            remedy = "pip install 'adaptinfer-eval[flash]' (it needs a GPU), or leave out attn_implementation"
            yield Finding("flash attention", "fails", "asked for by attn_implementation, and not usable here", remedy)
        else:
            yield Finding("flash attention", "ok", "not here, and not asked for: sdpa is used")
        return
    from flash_attn import flash_attn_func

    q, k, v = torch.randn(3, 1, 64, 2, 64, device="cuda", dtype=torch.bfloat16)  # each (batch, length, heads, size)
    qt, kt, vt = (x.transpose(1, 2) for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(qt, kt, vt, is_causal=True)
    error = float((flash_attn_func(q, k, v, causal=True).transpose(1, 2) - expected).abs().max())
    if error > 0.05:
        remedy = "install it anew for this torch, or leave out attn_implementation"
        yield Finding("flash attention", "fails", f"is {error:.2g} away from sdpa", remedy)
    else:
        used = "used" if wanted else "not asked for: sdpa is used"
        yield Finding("flash attention", "ok", f"agrees with sdpa; {used}")


def disk(config: SweepConfig) -> Iterator[Finding]:
    """Can results be written, and is there space for them?"""
    whole = Path(config.output).resolve()
    first = next(path for path in (whole, *whole.parents) if path.exists())
    if not first.is_dir():
        yield Finding(
            "disk", "fails", f"results cannot be written: {first} is a file", "give another folder (output=...)"
        )
        return
    there, free = free_space(whole)
    if not os.access(there, os.W_OK):
        yield Finding("disk", "fails", f"{there} cannot be written to", "give another folder (output=...)")
        return
    text = f"{free / GB:.1f} GB free for results in {config.output}"
    if free < NOTHING:
        yield Finding("disk", "fails", text, "free some space, or give a folder on another disk (output=...)")
    elif free < LITTLE:
        yield Finding("disk", "warning", text, "a long sweep may fill it; it goes on when there is space again")
    else:
        yield Finding("disk", "ok", text)


def free_space(folder: Path) -> tuple[Path, float]:
    """The part of a folder's path that exists, and the bytes free there."""
    whole = folder.resolve()
    there = next(parent for parent in (whole, *whole.parents) if parent.is_dir())
    return there, float(shutil.disk_usage(there).free)


def memory(config: SweepConfig, weights: float) -> Iterator[Finding]:
    """Do `weights` bytes per worker fit into this machine's memory, or its GPUs'?"""
    import torch

    from adaptinfer_eval.sweep.pools.processes import visible_gpus

    if count := len(visible_gpus()):
        free = float(min(torch.cuda.mem_get_info(index)[0] for index in range(count)) * config.gpus_per_worker)
        need, where = weights, f"of {config.gpus_per_worker} GPU{'s' * (config.gpus_per_worker > 1)}"
        remedy = "give more GPUs to a worker (gpus_per_worker=...), or dtype=bfloat16; end what else runs on the GPU"
    else:
        free, workers = free_memory(), config.workers or 1
        need, where = weights * workers, f"of this machine, {workers} worker{'s' * (workers > 1)}"
        remedy = "fewer workers (workers=...), dtype=bfloat16, or a machine with more memory"
    text = f"weights take {need / GB:.3g} GB, free are {free / GB:.3g} GB {where}"
    if need > free:
        yield Finding("memory", "fails", text, remedy)
    elif 1.25 * need > free:
        yield Finding("memory", "warning", f"{text}: little is left to answer with", f"batch_size=1; {remedy}")
    else:
        yield Finding("memory", "ok", text)


def free_memory() -> float:
    """Bytes that processes of this machine can still take, within the limit of its container."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = float(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (group / "memory.max").read_text().strip(), float((group / "memory.current").read_text())
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
    except (OSError, KeyError):
        return free
    return free if limit == "max" else min(free, float(limit) - used + float(cached))


def _nvidia_gpus() -> str:
    """The GPUs that the driver lists; empty where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return ""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return "what nvidia-smi does not list within 10 s"
    return "; ".join(listed.stdout.split("(UUID")[0].strip().splitlines()) if listed.returncode == 0 else ""
