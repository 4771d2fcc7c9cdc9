"""One training loop for every stage: AdamW, warm-up and cosine, resumable, seeded."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

LOGS = Path("logs/mini")  # checkpoints and curves; git-ignored
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SAVE_EVERY = 100


def checkpoint(seed: int, stage: str) -> Path:
    """Where a stage of the model of a seed is kept."""
    return LOGS / f"seed{seed}" / f"{stage}.pt"


def save(state: object, path: Path) -> None:
    """Writes all of it or nothing: what lies at `path` can be gone on from."""
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


@dataclass(frozen=True)
class Plan:
    """How long and how fast a stage of the model of one seed trains. `end`: last learning rate as a share of `rate`."""

    seed: int
    stage: str
    steps: int
    rate: float
    warmup: int = 100
    end: float = 0.05


def _rate(step: int, plan: Plan) -> float:
    if step < plan.warmup:
        return plan.rate * (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.rate * (plan.end + (1 - plan.end) * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    plan: Plan,
    module: nn.Module,
    loss: Callable[[np.random.Generator], Tensor],
    evaluate: Callable[[], dict[str, float]],
) -> None:
    """Trains the parameters of `module` that require a gradient and leaves them in `checkpoint(seed, stage)`.

    `loss(rng)` draws its own batch from rng and returns the loss. The rng depends on seed, stage and step alone, so
    that a run that was stopped goes on as if it had not been."""
    path = checkpoint(plan.seed, plan.stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.02},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98), foreach=True)
    first = 0
    if path.exists():
        saved = torch.load(path, map_location=DEVICE)
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    began, running = time.time(), 0.0
    for step in range(first, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, plan)
        rng = np.random.default_rng((plan.seed, *plan.stage.encode(), step))
        value = loss(rng)
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        running = value.item() if step == first else 0.95 * running + 0.05 * value.item()
        done = step + 1
        if done % SAVE_EVERY == 0 or done == plan.steps:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
            save(state, path)
            scores = {name: round(score, 3) for name, score in evaluate().items()}
            line = {"stage": plan.stage, "step": done, "seconds": round(time.time() - began)}
            text = json.dumps(line | {"loss": round(running, 4)} | scores)
            print(text, flush=True)
            with path.with_suffix(".jsonl").open("a") as log:
                log.write(text + "\n")
