"""AdaptInfer on Qwen2-VL reproduces both published versions, DART its own: kept tokens and answers exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_data import fields, index, qwen, tensors
from transformers import DynamicCache

import adaptinfer_eval as ae

PARAMETERS = index("qwen_index")["case_params"]
CASES = [(case, prompt) for case, prompts in index("qwen_index")["case_meta"].items() for prompt in prompts]


def method_of(case: str, vision: int = 0) -> Any:
    if case == "vanilla":
        return ae.get_method("vanilla")()
    facts = PARAMETERS[case]
    if facts["method"] == "dart_vl":
        (layer,), picks = facts["prune_after_layers"], int(vision * (1 - facts["reduction_ratio"]) / 8)
        return ae.get_method("dart")(schedule=f"{layer}:{4 + 8 * picks}")
    stages = zip(facts["prune_after_layers"], facts["keep_ratios"], strict=True)
    schedule = ",".join(f"{layer}:{100 * share:g}%" for layer, share in stages)
    return ae.get_method("adaptinfer")(schedule=schedule, variant="qwen2_vl_min1" if "min1" in case else "qwen2_vl")


@pytest.mark.parametrize(("case", "prompt"), CASES)
@torch.no_grad()
def test_published_versions(case: str, prompt: str) -> None:
    (model, head), facts = (
        qwen(PARAMETERS[case].get("attn_implementation", "sdpa")),
        index("qwen_index")["prompts"][prompt],
    )
    given, want = fields("qwen_prompts", prompt), fields("qwen_cases", f"{prompt}/{case}")
    embeds, positions = given["inputs_embeds"][None], given["position_ids"][:, None]
    length, first = embeds.shape[1], facts["image_start"]
    mask = torch.zeros(1, length, dtype=torch.bool)
    mask[:, first : first + facts["num_image_tokens"]] = True
    cache = DynamicCache(config=model.config)
    with ae.pruned(model, method_of(case, int(mask.sum())), vision_mask=mask) as trace:
        hidden = model(inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=True)
        logits = [head @ hidden.last_hidden_state[0, -1]]
        assert [cache.get_seq_length(layer) for layer in range(28)] == want["cache_len"].tolist()
        text = length - int(mask.sum())
        assert (trace.entering[0] + text).tolist() == want["entering_per_layer"].tolist()
        for layer, kept in trace.kept.items():
            ids = want[f"ids_after_layer_{layer}"]
            assert kept[0].tolist() == ids[mask[0][ids]].tolist()
        for step in range(8):
            token = model.embed_tokens(logits[-1].argmax()[None, None])
            now = torch.full((3, 1, 1), length + step + facts["rope_delta"])
            hidden = model(inputs_embeds=token, position_ids=now, past_key_values=cache, use_cache=True)
            logits.append(head @ hidden.last_hidden_state[0, -1])
    assert len(trace.kept) == len(PARAMETERS[case].get("prune_after_layers", ()))
    assert [int(each.argmax()) for each in logits] == want["tokens"].tolist()
    expected = torch.cat([want["logits_last"][None], want["decode_logits"]])
    assert torch.allclose(torch.stack(logits), expected, atol=3e-4), (torch.stack(logits) - expected).abs().max()


@pytest.mark.parametrize("percent", [10, 30, 50])
@pytest.mark.parametrize("variant", ["qwen2_vl", "qwen2_vl_min1"])
def test_the_presets_are_theirs(percent: int, variant: str) -> None:
    case = f"adaptinfer_{percent}_sdpa" if variant == "qwen2_vl" else f"adaptinfer_min1_{percent}"
    assert ae.get_method("adaptinfer")(schedule=f"{percent}%", variant=variant) == method_of(case)


def test_the_data_are_whole() -> None:
    """Every case of every prompt is compared, and so are an image, a video and a tiny image."""
    assert {(case, prompt) for prompt, case in (name.split("/")[:2] for name in tensors("qwen_cases"))} == set(CASES)
    assert {facts["kind"] for facts in index("qwen_index")["prompts"].values()} == {"image", "video"}
