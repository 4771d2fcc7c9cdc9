"""What choosing costs on paper: the operations of every method at LLaVA-1.5-7B's shape, beside a pruned prefill's.

    python benchmarks/choosing.py [--budgets 192,128,64]

Methods before the decoder choose of random features of that shape (576 tokens, 1024 wide, 4096 behind the projector);
methods in the decoder in a prefill of 35 + 576 + 31 tokens, 4096 wide, in 32 layers whose projections are of a low rank
and whose MLPs are narrow: their own arithmetic is not counted. Counted is what the method computes of what it sees.
ToMe chooses inside the tower; of CDPruner the choice is counted, and not CLIP's text tower.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import adaptinfer_eval as ae
from adaptinfer_eval.bench.choosing import watched
from adaptinfer_eval.bench.operations import Arithmetic
from adaptinfer_eval.cost import Decoder, prefill_flops

BEFORE, VISION, AFTER = 35, 576, 31
WIDTH, LAYERS, HEADS, VOCABULARY, INTERMEDIATE = 4096, 32, 32, 32064, 11008
TOWER, TOWER_LAYERS, TOWER_HEADS = 1024, 24, 16
LEFT_OUT = ("vanilla", "tome", "trim", "evs", "vidcom2", "other_question", "downsample")
WORDS, SHARED = 12, 768
"""Tokens of a question, for methods that read it; the width that CLIP's towers share."""


class LowRank(nn.Module):
    """A projection that costs little."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(WIDTH, 8, bias=False), nn.Linear(8, WIDTH, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        projected: Tensor = self.up(self.down(hidden))
        return projected


def decoder() -> Any:
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
    )
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu")
    for layer in model.model.layers:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(layer.self_attn, name, LowRank())
    for name, parameter in model.named_parameters():
        nn.init.ones_(parameter) if "norm" in name else nn.init.normal_(parameter, std=0.05)
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=config)
    return model.eval()


def images(method: ae.ImageMethod) -> ae.Images:
    """One image of LLaVA-1.5-7B as `method` asks to see it, of random numbers."""
    look = method.look(TOWER_LAYERS - 2, TOWER_LAYERS)
    softmaxed = {layer: torch.rand(1, TOWER_HEADS, VISION) / VISION for layer in {*look.attention, *look.received}}
    return ae.Images(
        projected=torch.randn(1, VISION, WIDTH),
        hidden=torch.randn(1, VISION, TOWER),
        cls=torch.randn(1, TOWER),
        grid=(24, 24),
        project=lambda rows: torch.zeros(*rows.shape[:2], WIDTH),
        attention={layer: softmaxed[layer] for layer in look.attention},
        received={layer: softmaxed[layer] for layer in look.received},
        keys={layer: torch.randn(1, 1 + VISION, TOWER_HEADS, TOWER // TOWER_HEADS) for layer in look.keys},
        queries={layer: torch.randn(1, TOWER_HEADS, TOWER // TOWER_HEADS) for layer in look.queries},
        questions=["What does the sign above the door say about opening hours?"],
        embed=lambda texts: torch.randn(WORDS, WIDTH),
    )


def chosen_in(model: Any, method: ae.Method, counted: Arithmetic) -> None:
    """Let `method` choose, wherever it acts, with what it computes in `counted`."""
    before, inside = method.before(LAYERS), method.inside(LAYERS)
    going_in, patches, question = VISION, torch.randn(1, VISION, SHARED), torch.randn(1, SHARED)
    if before is not None:
        seen, going_in = images(before), before.image_budget(VISION)
        with counted:
            if "text_tower" in vars(before):
                ae.get_method("cdpruner").choose(seen.projected, patches, [question], going_in)
            else:
                before.select(seen, going_in)
    if inside is None:
        return
    embeds = torch.randn(1, BEFORE + going_in + AFTER, WIDTH)
    mask = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    mask[:, BEFORE : BEFORE + going_in] = True
    with ae.pruned(model, watched(inside, lambda: counted), vision_mask=mask):
        model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", default="192,128,64")
    budgets = [int(budget) for budget in parser.parse_args().budgets.split(",")]
    torch.manual_seed(0)
    model, shape = decoder(), Decoder(LAYERS, WIDTH, INTERMEDIATE, HEADS, HEADS, WIDTH // HEADS, VOCABULARY)
    rows = []
    for name in ae.available_methods():
        if name in LEFT_OUT:
            continue
        row = [name]
        for budget in budgets:
            try:
                method = ae.get_method(name)(budget=budget)
                text = {"text_before": BEFORE, "text_after": AFTER}
                prefill = prefill_flops(method, shape, vision_tokens=VISION, **text)
            except ValueError:
                row += ["–"] * 3
                continue
            counted = Arithmetic()
            with torch.inference_mode():
                chosen_in(model, method, counted)
            share = 100 * counted.flops / prefill
            row += [f"{counted.flops / 1e9:.3f}", f"{share:.2f} %" if share > 0.005 else "< 0.01 %"]
            row.append(str(counted.launches))
        rows.append(row)
    headers = ["method", *(f"{what} at {budget}" for budget in budgets for what in ("GFLOP", "share", "operations"))]
    print(tabulate(rows, headers, "github", disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1))))


if __name__ == "__main__":
    main()
