"""The models that are measured: checkpoints, or the shapes of some with random weights; and prompts for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from adaptinfer_eval.backbones import FAMILIES, family_of
from adaptinfer_eval.backbones.family import Family
from adaptinfer_eval.cost import TEXT_BEFORE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SHAPES = {name: family for family in FAMILIES.values() for name in family.shapes}


def build(shape: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A model of `shape` with random weights, made on `device`."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    family, auto = SHAPES[shape], cast(Any, AutoModelForImageTextToText)
    config = AutoConfig.for_model(family.model_type, **family.shapes[shape])
    with device:
        return family.measured(auto.from_config(config, dtype=dtype))


def load(pretrained: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A checkpoint's model on `device`; CheckpointError where it is of no known family or not whole."""
    from adaptinfer_eval.models.checkpoint import check_checkpoint
    from adaptinfer_eval.models.loading import load_model

    check_checkpoint(pretrained)
    return load_model(pretrained, dtype=dtype, device_map={"": device})


def family_at_hand(model: Any) -> Family:
    """A model's family, with the choices that it has made itself."""
    return FAMILIES[family_of(model.config).model_type].of(model)


def ready(model: Any) -> Any:
    """The model set to generate greedily, and as many tokens as it is asked for."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0, eos_token_id=None)  # type: ignore[no-untyped-call]
    return model.eval()


def prompts(model: Any, batch_size: int, text_tokens: int) -> dict[str, Tensor]:
    """Inputs of the model: `batch_size` prompts of equal length, each with one image between random text."""
    import torch
    from transformers import BatchFeature

    family = family_at_hand(model)
    image_token, tokens = family.vision_ids(model.config)[0], family.image_tokens(model.config)
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(1, min(100, image_token), (batch_size, text_tokens), generator=generator)
    image = torch.full((batch_size, tokens), image_token)
    ids = torch.cat([text[:, :TEXT_BEFORE], image, text[:, TEXT_BEFORE:]], 1)
    images = family.random_images(model.config, batch_size, generator)
    types = family.token_types(ids == image_token)
    return dict(BatchFeature({"input_ids": ids, **types, **images}).to(model.device, model.dtype))
