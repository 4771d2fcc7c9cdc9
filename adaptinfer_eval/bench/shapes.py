"""The models that are measured: checkpoints, or the shapes of some with random weights; and prompts for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptinfer_eval.backbones.vision import image_tokens

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BEFORE = 35
"""Text tokens before the image: the system prompt of LLaVA-1.5's conversations (vicuna_v1)."""


@dataclass(frozen=True)
class Shape:
    """A LLaVA: keyword arguments of its CLIPVisionConfig and LlamaConfig."""

    vision: dict[str, Any]
    text: dict[str, Any]


_CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
# As in the config.json of llava-hf/llava-1.5-7b-hf and -13b-hf.
SHAPES = {
    "llava-1.5-7b": Shape(
        _CLIP_L_336,
        {
            "vocab_size": 32064,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
    ),
    "llava-1.5-13b": Shape(
        _CLIP_L_336,
        {
            "vocab_size": 32064,
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
        },
    ),
    # The depth and the image of LLaVA-1.5-7B, narrow enough for a CPU.
    "tiny": Shape(
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 5,
            "num_attention_heads": 1,
            "image_size": 96,
            "patch_size": 4,
        },
        {
            "vocab_size": 128,
            "hidden_size": 64,
            "intermediate_size": 176,
            "num_hidden_layers": 32,
            "num_attention_heads": 2,
        },
    ),
}


def build(shape: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A LLaVA of `shape` with random weights, made on `device`."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    facts = SHAPES[shape]
    vision, text = CLIPVisionConfig(**facts.vision), LlamaConfig(**facts.text)
    config: Any = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=facts.text["vocab_size"] - 1,
        image_seq_length=(facts.vision["image_size"] // facts.vision["patch_size"]) ** 2,
    )
    with device:
        return LlavaForConditionalGeneration._from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]


def load(pretrained: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A checkpoint's model on `device`; CheckpointError where it is of no known family or not whole."""
    from adaptinfer_eval.models.checkpoint import check_checkpoint
    from adaptinfer_eval.models.loading import load_model

    check_checkpoint(pretrained)
    return load_model(pretrained, dtype=dtype, device_map={"": device})


def ready(model: Any) -> Any:
    """The model set to generate greedily, and as many tokens as it is asked for."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, eos_token_id=None)  # type: ignore[no-untyped-call]
    return model.eval()


def prompts(model: Any, batch_size: int, text_tokens: int) -> dict[str, Tensor]:
    """Inputs of the model: `batch_size` prompts of equal length, each with one image between random text."""
    import torch

    image_token, tokens = model.config.image_token_id, image_tokens(model.config)
    side = model.config.vision_config.image_size
    side = side if isinstance(side, int) else side[0]
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(1, min(100, image_token), (batch_size, text_tokens), generator=generator)
    image = torch.full((batch_size, tokens), image_token)
    ids = torch.cat([text[:, :BEFORE], image, text[:, BEFORE:]], 1)
    pixels = torch.rand(batch_size, 3, side, side, generator=generator)
    return {"input_ids": ids.to(model.device), "pixel_values": pixels.to(model.device, model.dtype)}
