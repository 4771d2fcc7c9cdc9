"""One training loop for every stage: AdamW, warm-up and cosine, resumable, seeded, one process or several."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

LOGS = Path("logs/mini")  # checkpoints and curves; git-ignored
SAVE_EVERY = 100


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage trains. `end`: last learning rate as a share of `rate`."""

    stage: str
    steps: int
    rate: float
    warmup: int = 100
    end: float = 0.05
    seed: int = 0


def start_workers() -> tuple[int, int]:
    """(rank, workers) as torchrun sets them; joins the group when there are several."""
    torch.set_num_threads(1)
    rank, workers = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if workers > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    return rank, workers


def _average(tensors: list[Tensor], workers: int) -> None:
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = (flat / workers).split([tensor.numel() for tensor in tensors])  # type: ignore[no-untyped-call]
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def _rate(step: int, plan: Plan) -> float:
    if step < plan.warmup:
        return plan.rate * (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.rate * (plan.end + (1 - plan.end) * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    plan: Plan,
    module: nn.Module,
    loss: Callable[[np.random.Generator, float], Tensor],
    evaluate: Callable[[], dict[str, float]],
) -> None:
    """Trains the parameters of `module` that require a gradient and leaves them in LOGS/<stage>.pt.

    `loss(rng, progress)` draws its own batch from rng and returns the loss, with `progress` in 0..1. The rng
    depends on seed, step and rank alone, so that a run that was stopped goes on as if it had not been."""
    rank, workers = start_workers()
    path = LOGS / f"{plan.stage}.pt"
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.02},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98), foreach=True)
    first = 0
    if path.exists():
        saved = torch.load(path)
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    began, running = time.time(), 0.0
    for step in range(first, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, plan)
        rng = np.random.default_rng((plan.seed, step, rank))
        value = loss(rng, step / plan.steps)
        value.backward()  # type: ignore[no-untyped-call]
        if workers > 1:
            _average([p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters], workers)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running = value.item() if step == first else 0.95 * running + 0.05 * value.item()
        done = step + 1
        if rank == 0 and (done % SAVE_EVERY == 0 or done == plan.steps):
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
            LOGS.mkdir(parents=True, exist_ok=True)
            torch.save(state, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            scores = {name: round(score, 3) for name, score in evaluate().items()}
            line = {"stage": plan.stage, "step": done, "seconds": round(time.time() - began)}
            text = json.dumps(line | {"loss": round(running, 4)} | scores)
            print(text, flush=True)
            with (LOGS / f"{plan.stage}.jsonl").open("a") as log:
                log.write(text + "\n")
    if workers > 1:
        dist.barrier()
