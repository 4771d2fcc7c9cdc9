"""How much a method's prefill costs beside vanilla's, and what choosing the tokens costs.

    python benchmarks/prefill.py [--runs 9] [--hidden 512] [--layers 32] [--budget 64]

Random weights (cost does not depend on their values), 576 vision and 95 text tokens, float32, batch 1, one thread.
All variants take turns in one run, so that a busy machine slows them alike; printed are medians and ratios.
"to FLOPs": ratio to vanilla over the ratio of FLOPs (Eq. 5). "to chosen": over the same schedule with tokens chosen
beforehand, which is what scoring costs; that is attached and measured in the same way.
"""

from __future__ import annotations

import functools
from typing import Any

from setting import AFTER, BEFORE, METHODS, VISION, decoder, in_turn, methods, options, prompt, seconds
from tabulate import tabulate

import adaptinfer_eval as ae
from adaptinfer_eval.bench.chosen import chosen


def main() -> None:
    asked = options(__doc__)
    model, (embeds, mask) = decoder(asked.hidden, asked.layers), prompt(asked.hidden)
    variants = methods(asked.budget)
    for name in METHODS:
        twin = chosen(variants[name], asked.layers, VISION)
        assert twin is not None  # they prune
        variants[f"{name} chosen"] = twin

    def prefill(method: ae.Method) -> float:
        with ae.pruned(model, method, vision_mask=mask):
            return seconds(lambda: model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1))

    median = in_turn({name: functools.partial(prefill, method) for name, method in variants.items()}, asked.runs)
    facts: dict[str, Any] = {"num_layers": asked.layers, "hidden_size": asked.hidden, "vision_tokens": VISION}
    facts |= {"intermediate_size": model.config.intermediate_size, "text_tokens": BEFORE + AFTER}
    whole = ae.audit(variants["vanilla"], **facts).macs
    rows: list[tuple[str, ...]] = [("vanilla", f"{1e3 * median['vanilla']:.0f}", "1.000", "1.000", "1.000", "")]
    for name in METHODS:
        flops = ae.audit(variants[name], **facts).macs / whole
        ratio, to_chosen = median[name] / median["vanilla"], median[name] / median[f"{name} chosen"]
        numbers = (ratio, flops, ratio / flops, to_chosen)
        rows.append((name, f"{1e3 * median[name]:.0f}", *(f"{number:.3f}" for number in numbers)))
    headers = ("method", "ms", "to vanilla", "FLOPs to vanilla", "to FLOPs", "to chosen")
    print(tabulate(rows, headers, "github", disable_numparse=True))


if __name__ == "__main__":
    main()
