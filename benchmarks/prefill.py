"""How much a method's prefill costs beside vanilla's, and what choosing the tokens costs.

    python benchmarks/prefill.py [--runs 9] [--hidden 512] [--layers 32] [--budget 64]

Random weights (cost does not depend on their values), 576 vision and 95 text tokens, float32, batch 1, one thread.
All variants take turns in one run, so that a busy machine slows them alike; printed are medians and ratios.
"chosen": the same schedule with tokens chosen beforehand, so `method / chosen` is what scoring costs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tabulate import tabulate
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import adaptinfer_eval as ae

BEFORE, VISION, AFTER = 35, 576, 60
METHODS: dict[str, dict[str, Any]] = {"adaptinfer": {}, "fastv": {}, "pdrop": {}, "sparsevlm": {}}


@dataclass(frozen=True, kw_only=True)
class Chosen(ae.LayerMethod):
    """Keeps the first vision tokens, whatever they are."""

    official: ClassVar = {}
    queries: ClassVar = "last"

    def score(self, attention: ae.Attention) -> Tensor:
        mask = attention.vision_mask
        return -torch.arange(mask.shape[1], dtype=torch.float32).expand(mask.shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--budget", type=float, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": options.hidden,
        "intermediate_size": options.hidden * 11 // 4,
        "num_hidden_layers": options.layers,
    }
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=128, num_attention_heads=options.hidden // 64, **shape))
    model.eval()
    embeds = torch.randn(1, BEFORE + VISION + AFTER, options.hidden)
    mask = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    mask[:, BEFORE : BEFORE + VISION] = True

    variants: dict[str, ae.Method] = {"vanilla": ae.get_method("vanilla")()}
    for name, extra in METHODS.items():
        method = ae.get_method(name)(budget=options.budget, **extra)
        entering = method.entering(options.layers, VISION)
        changes = [i for i in range(options.layers - 1) if entering[i + 1] != entering[i]]
        variants[name] = method
        schedule = ",".join(f"{layer}:{entering[layer + 1]}" for layer in changes)
        variants[f"{name} chosen"] = Chosen(schedule=schedule)

    times: dict[str, list[float]] = {name: [] for name in variants}
    with torch.inference_mode():
        for run in range(options.runs + 1):
            for name, method in variants.items():
                with ae.pruned(model, method, vision_mask=mask):
                    started = time.perf_counter()
                    model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)
                    if run:  # the first round warms up
                        times[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in times.items()}
    facts = {"num_layers": options.layers, "hidden_size": options.hidden, "vision_tokens": VISION}
    facts |= {"intermediate_size": shape["intermediate_size"], "text_tokens": BEFORE + AFTER}
    whole = ae.audit(variants["vanilla"], **facts).macs
    rows = [("vanilla", f"{1e3 * median['vanilla']:.0f}", "1.000", "1.000", "")]
    for name in METHODS:
        by_flops = ae.audit(variants[name], **facts).macs / whole
        to_chosen = median[name] / median[f"{name} chosen"]
        ratio = median[name] / median["vanilla"]
        rows.append((name, f"{1e3 * median[name]:.0f}", f"{ratio:.3f}", f"{by_flops:.3f}", f"{to_chosen:.3f}"))
    print(
        tabulate(rows, ("method", "ms", "to vanilla", "FLOPs to vanilla", "to chosen"), "github", disable_numparse=True)
    )


if __name__ == "__main__":
    main()
