"""What a decode step costs with a pruned cache: beside the bare model on a copy of the same cache, and beside vanilla.

    python benchmarks/decode.py [--runs 9] [--hidden 512] [--layers 32] [--budget 64]

The setting of prefill.py; each run decodes 32 tokens after an untimed prefill. "bare": the same weights in a model that
nothing is hooked to, each layer's cache as long as pruning left it. Pruned and bare take turns token by token, so that
a busy machine slows them alike; "to bare", the median of the runs' ratios, is what the engine itself adds to a step.
"""

from __future__ import annotations

import copy
import statistics
from typing import Any

import torch
from setting import decoder, methods, options, prompt, seconds
from tabulate import tabulate
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

import adaptinfer_eval as ae
from adaptinfer_eval.pruning.releases import CACHE, cache_of

STEPS = 32


def without_hooks(model: Any) -> Any:
    """The same weights in a model whose attention function is not the one that a pruned block wraps."""
    AttentionInterface.register("bare", sdpa_attention_forward)
    AttentionMaskInterface.register("bare", sdpa_mask)
    bare = copy.deepcopy(model, memo={id(weight): weight for weight in model.parameters()})
    bare.set_attn_implementation("bare")
    return bare


def main() -> None:
    asked = options(__doc__)
    model, (embeds, mask) = decoder(asked.hidden, asked.layers), prompt(asked.hidden)
    bare = without_hooks(model)
    token = torch.tensor([[3]])
    every = methods(asked.budget)
    every["sparsevlm plus"] = ae.get_method("sparsevlm")(budget=asked.budget, variant="plus")
    steps: dict[str, list[tuple[float, float]]] = {name: [] for name in every}

    def step(decoder: Any, cache: Any) -> float:
        return seconds(lambda: decoder(input_ids=token, use_cache=True, **{CACHE: cache}))

    with torch.inference_mode():
        for run in range(asked.runs + 1):
            for name, method in every.items():
                with ae.pruned(model, method, vision_mask=mask):
                    cache = cache_of(model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1))
                    same = copy.deepcopy(cache)
                    times = [(step(model, cache), step(bare, same)) for _ in range(STEPS)]
                if run:  # the first round warms up
                    pruned, alone = zip(*times, strict=True)
                    steps[name].append((statistics.median(pruned), statistics.median(alone)))
    rows = []
    whole = statistics.median(pruned for pruned, _ in steps["vanilla"])
    for name, method in every.items():
        pruned, alone = (statistics.median(times) for times in zip(*steps[name], strict=True))
        ratio = statistics.median(pruned / alone for pruned, alone in steps[name])
        positions = getattr(method, "positions", "keep")
        numbers = (f"{1e3 * pruned:.2f}", f"{1e3 * alone:.2f}", f"{ratio:.3f}", f"{pruned / whole:.3f}")
        rows.append((name, positions, *numbers))
    headers = ("method", "positions", "ms a token", "bare ms", "to bare", "to vanilla")
    print(tabulate(rows, headers, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
