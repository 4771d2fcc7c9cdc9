"""The tiny LLaVA's shape and its start: an unmodified Hugging Face LlavaForConditionalGeneration."""

import math

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from tasks.mini.make.loop import DEVICE
from tasks.mini.make.scene import GRID, PATCH, SIDE

PATCHES = GRID * GRID
VISION_WIDTH, TEXT_WIDTH = 96, 64
VISION_LAYERS = 5  # LLaVA reads layer -2, so the last one is never used
LAYERS_FIRST, LAYERS_FINAL = 8, 32
ROPE_THETA = 500000.0


def build_config(vocab_size: int, image_token: int, layers: int) -> LlavaConfig:
    """LLaVA-1.5's configuration in miniature; token ids 0-3 are <pad>, <s>, </s>, <unk>."""
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=256,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="quick_gelu",
        projection_dim=VISION_WIDTH,
    )
    text = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=176,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=PATCHES,
        tie_word_embeddings=False,
    )


def build_model(vocab_size: int, image_token: int, layers: int, seed: int) -> LlavaForConditionalGeneration:
    """Random weights at a scale from which so narrow a model learns (Hugging Face's 0.02 is far too small)."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config(vocab_size, image_token, layers))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            vision = "vision_tower" in name
            nn.init.normal_(module.weight, std=(0.8 if vision else 0.7) / math.sqrt(module.in_features))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith(("o_proj", "down_proj", "out_proj", "fc2")):  # outputs into the residual stream
                module.weight.data.mul_(1 / math.sqrt(2 * (VISION_LAYERS if vision else layers)))
    for layer in model.model.language_model.layers:
        # Lookup from the first step: like attends to like (k = q), and what is attended is copied (o = transposed v).
        heads = layer.self_attn
        nn.init.orthogonal_(heads.q_proj.weight)
        nn.init.orthogonal_(heads.v_proj.weight)
        heads.k_proj.weight.data.copy_(heads.q_proj.weight)
        heads.o_proj.weight.data.copy_(heads.v_proj.weight.T * 0.3)
    nn.init.normal_(model.model.language_model.embed_tokens.weight, std=0.5)
    nn.init.normal_(model.lm_head.weight, std=0.02)
    for layer in model.model.vision_tower.encoder.layers:  # like attends to like: at first, to its neighbours
        layer.self_attn.k_proj.weight.data.copy_(layer.self_attn.q_proj.weight)
    embeddings = model.model.vision_tower.embeddings
    nn.init.normal_(embeddings.patch_embedding.weight, std=1 / math.sqrt(3 * PATCH * PATCH))
    nn.init.normal_(embeddings.position_embedding.weight, std=0.02)
    embeddings.position_embedding.weight.data[1:] += _waves()
    nn.init.normal_(embeddings.class_embedding, std=0.02)
    model.to(DEVICE)  # type: ignore[arg-type]
    return model


@torch.no_grad()
def look_back(model: LlavaForConditionalGeneration, constant: Tensor) -> None:
    """One head each of the first two layers starts by reading the token one and two places back.

    What is said of a word stands beside it ("red." before, "B." two tokens before it), and heads that know distances
    take longest to learn. `constant` (width,): a direction that all words share; from it queries and keys are made."""
    size = TEXT_WIDTH // 2
    frequencies = ROPE_THETA ** (-torch.arange(0, size, 2, device=DEVICE) / size)
    used = (torch.arange(size // 2, device=DEVICE) < 4).float()  # the fast ones: the others hardly tell near distances
    for distance, layer in enumerate(model.model.language_model.layers[:2], 1):
        angles = frequencies * distance
        heads, second = layer.self_attn, slice(size, 2 * size)
        heads.q_proj.weight[second] = 2 * torch.outer(torch.cat([angles.cos() * used, -angles.sin() * used]), constant)
        heads.k_proj.weight[second] = 2 * torch.outer(torch.cat([used, 0 * used]), constant)
        heads.o_proj.weight[:, second] = heads.v_proj.weight[second].T


def _waves() -> Tensor:
    """(576, width): sines and cosines of each patch's column and row, so that near patches start alike."""
    periods = torch.logspace(0, math.log10(20), VISION_WIDTH // 4) * math.pi / GRID  # 1 to 20 in twice the width
    angles = torch.arange(GRID)[:, None] * periods
    one = torch.cat([angles.sin(), angles.cos()], 1) * 0.5
    rows, columns = one[:, None].expand(-1, GRID, -1), one[None].expand(GRID, -1, -1)
    return torch.cat([columns, rows], 2).reshape(PATCHES, VISION_WIDTH)


def patch_features(model: LlavaForConditionalGeneration, pictures: Tensor) -> Tensor:
    """uint8 pictures (B, 96, 96, 3) -> features of layer -2 without CLS, (B, 576, 96), in training or inference."""
    pixels = (pictures.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    tower = model.model.vision_tower
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, attention_mask=None)
    features: Tensor = hidden[:, 1:]
    return features


def grow(model: LlavaForConditionalGeneration, layers: int) -> LlavaForConditionalGeneration:
    """A model of `layers` layers, each a copy of one of `model`'s whose outputs are scaled by the number of copies.

    Together the copies start close to the layer they come from, and all of them are live: none starts as identity."""
    copies = layers // len(model.model.language_model.layers)
    deep = LlavaForConditionalGeneration(
        build_config(model.lm_head.out_features, model.config.image_token_index, layers)
    )
    state = {}
    for name, weight in model.state_dict().items():
        head, found, tail = name.partition("language_model.layers.")
        if not found:
            state[name] = weight
            continue
        number, rest = tail.split(".", 1)
        scaled = weight / copies if rest.endswith(("o_proj.weight", "down_proj.weight")) else weight
        for copy in range(copies):
            state[f"{head}{found}{int(number) * copies + copy}.{rest}"] = scaled.clone()
    deep.load_state_dict(state)
    deep.to(DEVICE)  # type: ignore[arg-type]
    return deep
