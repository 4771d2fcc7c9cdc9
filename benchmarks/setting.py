"""What the engine's benchmarks share: a decoder with random weights, a prompt, and runs that take turns."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import adaptinfer_eval as ae

BEFORE, VISION, AFTER = 35, 576, 60
METHODS = ("adaptinfer", "fastv", "pdrop", "sparsevlm")


def options(description: str | None) -> argparse.Namespace:
    """The command line: runs, the model's size and the budget. Sets one thread and the seed."""
    return arguments(description).parse_args()


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The same to be added to."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--budget", type=float, default=64)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return parser


def decoder(hidden: int, layers: int) -> Any:
    """A Llama of LLaVA-1.5's proportions, float32 on the CPU."""
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
    )
    model: Any = LlamaForCausalLM(config)
    return model.eval()


def prompt(hidden: int) -> tuple[Tensor, Tensor]:
    """Input embeddings (1, L, D) and vision mask (1, L)."""
    embeds = torch.randn(1, BEFORE + VISION + AFTER, hidden)
    mask = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    mask[:, BEFORE : BEFORE + VISION] = True
    return embeds, mask


def methods(budget: float) -> dict[str, ae.Method]:
    return {"vanilla": ae.get_method("vanilla")(), **{name: ae.get_method(name)(budget=budget) for name in METHODS}}


def in_turn(variants: Mapping[str, Callable[[], float]], runs: int) -> dict[str, float]:
    """Median of each variant's result. They take turns, so that a busy machine slows them alike; the first warms up."""
    results: dict[str, list[float]] = {name: [] for name in variants}
    with torch.inference_mode():
        for run in range(runs + 1):
            for name, variant in variants.items():
                result = variant()
                if run:
                    results[name].append(result)
    return {name: statistics.median(values) for name, values in results.items()}


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
