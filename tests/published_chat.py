"""InternVL-Chat as it was published, tiny and random; and what it computes, written anew from its own names."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import gelu, interpolate, linear
from transformers import LlamaConfig, LlamaForCausalLM

WIDTH, HEADS, LAYERS, PATCH, READ = 256, 2, 5, 56, -4
INSIDE = "model.vision_tower.vision_tower."
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 4096,
    "vocab_size": 32000,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CHAT = {
    **TEXT,
    "_name_or_path": "./pretrained/vicuna-7b-v1.5",
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava",
    "freeze_mm_mlp_adapter": False,
    "hidden_act": "silu",
    "image_aspect_ratio": "pad",
    "image_grid_pinpoints": None,
    "initializer_range": 0.02,
    "mm_hidden_size": WIDTH,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": READ,
    "mm_vision_tower": "./pretrained/intern_vit_6b_224px",
    "pretraining_tp": 1,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.32.0",
    "tune_mm_mlp_adapter": False,
    "use_cache": True,
    "use_mm_proj": True,
}
TOWER = {
    "architectures": ["InternVisionModel"],
    "model_type": "intern_vit_6b",
    "hidden_act": "gelu",
    "hidden_size": WIDTH,
    "image_size": 224,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-06,
    "num_attention_heads": HEADS,
    "num_channels": 3,
    "num_hidden_layers": LAYERS,
    "patch_size": PATCH,
    "qk_normalization": True,
    "qkv_bias": False,
    "use_flash_attn": True,
}


def vocabulary() -> Path:
    """A real one of SentencePiece, of Llama's kind and size."""
    found = importlib.util.find_spec("mistral_common")  # not imported: nothing but its data is needed
    if found is None or not found.submodule_search_locations:
        pytest.skip("mistral-common has the vocabulary")
    return Path(found.submodule_search_locations[0]) / "data" / "tokenizer.model.v1"


def tower_weights(side: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Of a tower whose positions are `side` × `side`."""
    torch.manual_seed(1)
    shapes = {
        "embeddings.class_embedding": (1, 1, WIDTH),
        "embeddings.position_embedding": (1, 1 + side**2, WIDTH),
        "embeddings.patch_embedding.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embedding.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        shapes |= {
            f"encoder.layers.{layer}.{name}": shape
            for name, shape in {
                **dict.fromkeys(("ls1", "ls2", "norm1.weight", "norm2.weight"), (WIDTH,)),
                **dict.fromkeys(("attn.q_norm.weight", "attn.k_norm.weight"), (WIDTH,)),
                "attn.qkv.weight": (3 * WIDTH, WIDTH),
                "attn.proj.weight": (WIDTH, WIDTH),
                "attn.proj.bias": (WIDTH,),
                "mlp.fc1.weight": (96, WIDTH),
                "mlp.fc1.bias": (96,),
                "mlp.fc2.weight": (WIDTH, 96),
                "mlp.fc2.bias": (WIDTH,),
            }.items()
        }
    return {name: (torch.randn(shape) * (0.02 if "patch" in name else 0.2)).to(dtype) for name, shape in shapes.items()}


def chat_weights(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Of the language model, with buffers that old releases saved, and of the projector."""
    torch.manual_seed(2)
    found = LlamaForCausalLM(LlamaConfig(**TEXT, initializer_range=0.2)).state_dict()  # type: ignore[arg-type]
    for number, (rows, columns) in {0: (64, WIDTH), 2: (64, 64)}.items():
        found[f"model.mm_projector.{number}.weight"] = 0.1 * torch.randn(rows, columns)
        found[f"model.mm_projector.{number}.bias"] = 0.1 * torch.randn(rows)
    found = {name: tensor.to(dtype) for name, tensor in found.items()}
    return found | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}


def write(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], form: str, files: int = 2) -> Path:
    """A checkpoint's folder; `form`: "bin" or "safetensors", in `files` files with an index, or one without."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    stem = {"bin": "pytorch_model", "safetensors": "model"}[form]
    places: dict[str, str] = {}
    for number in range(files):
        part = {name: weights[name].contiguous() for name in sorted(weights)[number::files]}
        file = f"{stem}.{form}" if files == 1 else f"{stem}-{number + 1:05d}-of-{files:05d}.{form}"
        torch.save(part, folder / file) if form == "bin" else save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    if files > 1:
        (folder / f"{stem}.{form}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def save_chat(folder: Path, inside: bool = False, form: str = "bin", files: int = 2, **changed: Any) -> Path:
    """The chat's folder, with its tower `inside` or without."""
    weights = chat_weights()
    if inside:
        weights |= {INSIDE + name: tensor for name, tensor in tower_weights(4).items()}
    write(folder, {**CHAT, **changed}, weights, form, files)
    shutil.copy(vocabulary(), folder / "tokenizer.model")
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    told = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "special_tokens_map.json").write_text(json.dumps(roles))
    return folder


def save_tower(folder: Path, side: int = 4, form: str = "bin", **changed: Any) -> Path:
    return write(folder, {**TOWER, **changed}, tower_weights(side), form, files=1)


def hidden_states(weights: Mapping[str, Tensor], pixels: Tensor) -> list[Tensor]:
    """Of the tower's embeddings, then of every layer: (B, 1 + patches, D)."""

    def norm(x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weights[f"{name}.weight"]

    def dense(x: Tensor, name: str) -> Tensor:
        return linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    filters, bias = weights["embeddings.patch_embedding.weight"], weights["embeddings.patch_embedding.bias"]
    squares = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # (B, 3, rows, columns, PATCH, PATCH)
    patches = torch.einsum("bcrsxy,dcxy->brsd", squares, filters) + bias
    grid = weights["embeddings.position_embedding"][:, 1:]
    old = int(grid.shape[1] ** 0.5)
    grid = grid.transpose(1, 2).reshape(1, WIDTH, old, old)
    grid = interpolate(grid, size=tuple(patches.shape[1:3]), mode="bicubic", align_corners=False)
    patches = patches.flatten(1, 2) + grid.flatten(2).transpose(1, 2)
    first = weights["embeddings.class_embedding"] + weights["embeddings.position_embedding"][:, :1]
    states = [torch.cat([first.expand(len(pixels), -1, -1), patches], dim=1)]
    for layer in range(LAYERS):
        at = f"encoder.layers.{layer}."
        x = states[-1]
        q, k, v = linear(norm(x, f"{at}norm1"), weights[f"{at}attn.qkv.weight"]).chunk(3, dim=-1)
        q, k = norm(q, f"{at}attn.q_norm"), norm(k, f"{at}attn.k_norm")
        q, k, v = (each.reshape(*each.shape[:2], HEADS, -1).transpose(1, 2) for each in (q, k, v))
        mixed = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        x = x + weights[f"{at}ls1"] * dense(mixed.transpose(1, 2).flatten(2), f"{at}attn.proj")
        x = x + weights[f"{at}ls2"] * dense(gelu(dense(norm(x, f"{at}norm2"), f"{at}mlp.fc1")), f"{at}mlp.fc2")
        states.append(x)
    return states


def features(chat: Mapping[str, Tensor], tower: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """The vision tokens (B, patches, D) that the language model gets."""
    x = hidden_states(tower, pixels)[READ][:, 1:]
    x = gelu(linear(x, chat["model.mm_projector.0.weight"], chat["model.mm_projector.0.bias"]))
    return linear(x, chat["model.mm_projector.2.weight"], chat["model.mm_projector.2.bias"])


def language_model(chat: Mapping[str, Tensor]) -> Any:
    """Vicuna by itself, fed embeddings."""
    model: Any = LlamaForCausalLM(LlamaConfig(**TEXT))  # type: ignore[arg-type]
    model.load_state_dict({name: chat[name] for name in model.state_dict()})
    return model.eval()
