"""What is computed is what the audit says: FLOPs as torch counts them in real pruned prefills."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from tiny_models import METHODS
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import adaptinfer_eval as ae
from adaptinfer_eval.cost import Decoder, decode_macs, prefill_flops

IMAGE, VISION, BEFORE, AFTER = 90, 576, 35, 31
SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 32}
# Every method at 64 tokens, both variants of those that have two.
AT_64: list[tuple[str, dict[str, Any]]] = [
    (name, {"budget": 64}) for name in sorted({name for name, _ in METHODS} - {"vanilla", "vtw"})
]
AT_64 += [
    ("vanilla", {}),
    ("vtw", {"schedule": "3:0"}),
    ("sparsevlm", {"budget": 64, "variant": "plus"}),
    ("fastv", {"budget": 64, "k": 3}),
]
# Older releases of torch count fused attention on accelerators only.
SDPA = pytest.param(
    "sdpa",
    marks=pytest.mark.skipif(
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu not in flop_registry,
        reason="this release of torch does not count its fused attention on the CPU",
    ),
)


def llava(kv_heads: int, attention: str) -> Any:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=5,
        num_attention_heads=2,
        image_size=96,
        patch_size=4,
    )
    text = LlamaConfig(vocab_size=96, num_attention_heads=4, num_key_value_heads=kv_heads, head_dim=32, **SHAPE)
    config: Any = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=VISION)
    model: Any = LlavaForConditionalGeneration(config)
    model.set_attn_implementation(attention)
    return model.eval()


def prompt() -> dict[str, Tensor]:
    ids = torch.full((1, BEFORE + VISION + AFTER), 7)
    ids[:, BEFORE : BEFORE + VISION] = IMAGE
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, 96, 96)}


def counted(model: Any, method: ae.Method) -> float:
    """FLOPs of decoder layers and lm_head in one prefill; not of the vision tower, and of what chooses before them."""
    with ae.pruned(model, method), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**prompt(), logits_to_keep=1)
    by_module = {name.removeprefix("LlavaForConditionalGeneration."): c for name, c in counter.flop_counts.items()}
    parts = [name for name in by_module if re.fullmatch(r"model\.language_model\.layers\.\d+|lm_head", name)]
    assert len(parts) == 33
    return float(sum(sum(by_module[part].values()) for part in parts))


@pytest.mark.parametrize("attention", [SDPA, "eager"])
@pytest.mark.parametrize(("name", "options"), AT_64)
def test_the_audit_is_what_is_computed(name: str, options: dict[str, Any], attention: str) -> None:
    model, method = llava(kv_heads=4, attention=attention), ae.get_method(name)(**options)
    shape = {"num_layers": 32, "hidden_size": 128, "intermediate_size": 352}
    paper = ae.audit(method, **shape, vision_tokens=VISION, text_tokens=BEFORE + AFTER)
    # FitPrune scores by the vision tokens' own rows after nearly every layer: much in a model as narrow as this one.
    assert counted(model, method) == pytest.approx(paper.flops, rel=0.12 if name == "fitprune" else 0.01)


@pytest.mark.parametrize("attention", [SDPA, "eager"])
@pytest.mark.parametrize(("name", "options"), AT_64)
def test_the_true_count_knows_grouped_queries_and_scores(name: str, options: dict[str, Any], attention: str) -> None:
    model, method = llava(kv_heads=1, attention=attention), ae.get_method(name)(**options)
    decoder = Decoder.of(model.config.get_text_config())
    want = prefill_flops(method, decoder, vision_tokens=VISION, text_before=BEFORE, text_after=AFTER)
    # SparseVLM's matching of text and image is as large as its scores in a model as narrow as this one.
    assert counted(model, method) == pytest.approx(want, rel=0.006 if name == "sparsevlm" else 0.001)


def test_a_decode_step_costs_what_eq_7_says() -> None:
    model, method = llava(kv_heads=4, attention="eager"), ae.get_method("adaptinfer")(budget=64)
    with ae.pruned(model, method), torch.no_grad():
        cache = model(**prompt(), logits_to_keep=1).past_key_values
        with FlopCounterMode(display=False) as counter:
            model(input_ids=torch.tensor([[3]]), past_key_values=cache)
    attended = [cache.get_seq_length(layer) for layer in range(32)]
    head = 2 * 128 * 96
    assert counter.get_total_flops() - head == pytest.approx(2 * decode_macs(attended, 128, 352), rel=0.001)
