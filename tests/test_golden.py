"""Every method reproduces its official implementation: kept tokens exactly, logits to 3e-4, features to 1e-4."""

from __future__ import annotations

import pytest
import torch
from golden_data import clip, fields, index, llama, options, prompt
from transformers import DynamicCache

import adaptinfer_eval as ae

CASES = [("index", case, seed) for case, seeds in index()["case_meta"].items() for seed in seeds]
CASES += [("llm2_index", case, seed) for case, seeds in index("llm2_index")["case_meta"].items() for seed in seeds]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("source", "case", "seed"), CASES)
@torch.no_grad()
def test_language_side(source: str, case: str, seed: str, attention: str) -> None:
    cases = {"index": "llm_cases", "llm2_index": "llm2_cases"}[source]
    model, (embeds, mask), want = llama(attention), prompt(seed), fields(cases, f"{seed}/{case}")
    name, method_options = options(case, source, int(mask.sum()))
    length = embeds.shape[1]
    with ae.pruned(model, ae.get_method(name)(**method_options), vision_mask=mask) as trace:
        cache = DynamicCache(config=model.config)
        logits = model(inputs_embeds=embeds, past_key_values=cache, use_cache=True).logits[0, -1]
        assert torch.allclose(logits, want["logits_last"], atol=3e-4), (logits - want["logits_last"]).abs().max()
        tokens = [int(logits.argmax())]
        lengths = [cache.get_seq_length(layer) for layer in range(32)]
        assert lengths == want["cache_len"].tolist()
        text = length - int(mask.sum())
        assert (trace.entering[0] + text).tolist() == want["entering_per_layer"].tolist()
        kept = {k.removeprefix("ids_after_layer_"): v for k, v in want.items() if k.startswith("ids_after")}
        drop = {layer for layer in trace.kept if trace.entering[0, layer] > trace.entering[0, layer + 1]}
        assert set(map(str, drop)) <= kept.keys() <= set(map(str, trace.kept))
        for layer, ids in kept.items():
            is_vision = (ids >= length) | mask[0][ids.clamp(max=length - 1)]
            assert trace.kept[int(layer)][0].tolist() == ids[is_vision].tolist()
        for step in range(8):
            token = torch.tensor([[tokens[-1]]])
            logits = model(input_ids=token, past_key_values=cache, use_cache=True).logits[0, -1]
            error = (logits - want["decode_logits"][step]).abs().max()
            assert error < 3e-4, f"step {step}: {error}"
            tokens.append(int(logits.argmax()))
    assert tokens == want["tokens"].tolist()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("seed", ["0", "1", "2"])
@pytest.mark.parametrize("case", ["tome_128", "tome_64", "tome_64_noprop"])
@torch.no_grad()
def test_vision_side(case: str, seed: str, attention: str) -> None:
    model = clip(attention)
    pixels, want = fields("tome_cases", seed)["pixel_values"][None], fields("tome_cases", f"{seed}/{case}")
    method = ae.get_method("tome")(budget=int(case.split("_")[1]), proportional="noprop" not in case)
    with ae.pruned(model, method) as trace:
        features = model(pixels, output_hidden_states=True).hidden_states[-2][0]
    assert trace.assign is not None
    assert trace.assign[0].tolist() == want["assign"].tolist()
    assert trace.assign[0].bincount().tolist() == want["size"].long().tolist()
    assert torch.allclose(features, want["features"], atol=1e-4), (features - want["features"]).abs().max()
    plain = model(pixels, output_hidden_states=True).hidden_states[-2][0]
    assert torch.allclose(plain[:33], fields("tome_cases", seed)["plain/features_first33"], atol=1e-4)
