"""The golden reference data: results of the official implementations on a tiny Llama and a tiny CLIP."""

from __future__ import annotations

import json
from functools import cache
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2VLTextConfig,
    Qwen2VLTextModel,
)

GOLDEN = Path(__file__).parent / "golden"


@cache
def index(name: str = "index") -> dict[str, Any]:
    data: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return data


@cache
def tensors(name: str) -> dict[str, Tensor]:
    return {
        key: value.float() if value.is_floating_point() else value.long()
        for key, value in load_file(GOLDEN / f"{name}.safetensors").items()
    }


def fields(source: str, case: str) -> dict[str, Tensor]:
    """All tensors `case/…` of a file, by the rest of their name."""
    return {k.removeprefix(case + "/"): v for k, v in tensors(source).items() if k.startswith(case + "/")}


def llama(attention: str = "sdpa") -> Any:
    facts: dict[str, Any] = json.loads((GOLDEN / "llama_config.json").read_text())
    model: Any = LlamaForCausalLM(LlamaConfig(**facts))
    model.set_attn_implementation(attention)
    model.load_state_dict(tensors("llama_weights_fp16"))
    return model.eval()


def qwen(attention: str = "sdpa") -> tuple[Any, Tensor]:
    """The decoder, and the head that it has no place for, (vocabulary, D)."""
    weights = dict(tensors("qwen_weights_fp16"))
    head = weights.pop("lm_head.weight")
    model: Any = Qwen2VLTextModel(Qwen2VLTextConfig(**index("qwen_text_config")))
    model.set_attn_implementation(attention)
    model.load_state_dict({name.removeprefix("model."): weight for name, weight in weights.items()})
    return model.eval(), head


def clip(attention: str = "sdpa") -> Any:
    facts: dict[str, Any] = json.loads((GOLDEN / "clip_config.json").read_text())
    model: Any = CLIPVisionModel(CLIPVisionConfig(**facts))
    model.set_attn_implementation(attention)
    nested = any(name.startswith("vision_model.") for name in model.state_dict())
    weights = tensors("clip_weights_fp16")
    model.load_state_dict(
        weights if nested else {k.removeprefix("vision_model."): v for k, v in weights.items()}, strict=False
    )
    return model.eval()


def prompt(seed: str) -> tuple[Tensor, Tensor]:
    """Input embeddings (1, L, D) and vision mask (1, L)."""
    embeds = tensors("prompts_fp16")[f"{seed}/inputs_embeds"][None]
    facts = index()["prompts"][seed]
    mask = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    mask[:, facts["image_start"] : facts["image_start"] + facts["num_image_tokens"]] = True
    return embeds, mask


def options(case: str, source: str, vision: int) -> tuple[str, dict[str, Any]]:
    """Method name and options that make the official run of `case` on an image of `vision` tokens."""
    facts = index(source)["case_params"][case]
    name: str = facts["method"]
    if name == "vanilla":
        return name, {}
    if name == "dart":
        (layer,), pivots = facts["prune_after_layers"], facts["image_pivots"] + facts["text_pivots"]
        limit, share = facts["max_num_trunction"], facts["reduction_ratio"]
        picks = ceil(limit / pivots) if share is None else int(vision * (1 - share)) // pivots
        given = {key: facts[key] for key in ("image_pivots", "text_pivots")}
        return name, {"schedule": f"{layer}:{facts['image_pivots'] + pivots * picks}", **given}
    if name == "fitprune":
        left = [vision - gone for gone in accumulate(facts["delete_per_layer"])]
        return name, {"schedule": ",".join(f"{layer}:{left[layer]}" for layer in facts["prune_after_layers"])}
    # PDrop's are ratios of the image's own tokens.
    keeps = facts["image_token_ratio_list"] if name == "pdrop" else facts["keep_counts"]
    schedule = ",".join(f"{layer}:{keep}" for layer, keep in zip(facts["prune_after_layers"], keeps, strict=True))
    if name == "sparsevlm_plus":
        return "sparsevlm", {
            "schedule": schedule,
            "variant": "plus",
            "priority_heads": facts["num_priority_heads"],
        }
    if name == "vtw":
        return name, {"schedule": schedule, "positions": facts["positions"]}
    return name, {"schedule": schedule}


TEXT_BEFORE, TEXT_AFTER, IMAGE, PATCHES = 7, 9, 99, 576
"""Of the prompts of `vision_llava`."""


@cache
def vision_llava(kind: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """A whole LLaVA around the golden CLIP tower and the projector `kind` ("linear", "mlp") of its cases."""
    clip_facts: dict[str, Any] = json.loads((GOLDEN / "clip_config.json").read_text())
    projector = {
        name.split("/", 1)[1]: weight
        for name, weight in tensors("vision_cases").items()
        if name.startswith(f"projector_{kind}/")
    }
    width = 64 if kind == "linear" else 384
    text = LlamaConfig(
        hidden_size=width, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, vocab_size=100
    )
    torch.manual_seed(0)
    config: Any = LlavaConfig(vision_config=CLIPVisionConfig(**clip_facts), text_config=text, image_token_index=IMAGE)
    model: Any = LlavaForConditionalGeneration(config)
    model.model.vision_tower = clip()
    layers: Any = [torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.Linear(width, width)]
    layers = torch.nn.Sequential(*layers)
    if kind == "linear":
        layers = torch.nn.Linear(width, width, bias=False)
    for name, weight in projector.items():
        part = layers if kind == "linear" else layers[int(name.split(".")[0])]
        setattr(part, name.rsplit(".", 1)[-1], torch.nn.Parameter(weight))
    model.model.multi_modal_projector = layers
    model.set_attn_implementation(attention)
    return model.eval().to(dtype)


def vision_prompt(seed: str) -> dict[str, Tensor]:
    """What a processor would make of the image of `seed` between text before and after it."""
    text = [1] + [5] * (TEXT_BEFORE - 1), [6 + place for place in range(TEXT_AFTER)]
    ids = torch.tensor([[*text[0], *[IMAGE] * PATCHES, *text[1]]])
    pixels = tensors("vision_cases")[f"{seed}/pixel_values"][None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
