"""Families of vision-language models, one file each: what differs between them, and nothing else knows.

The engine, the wrappers, the sweep, `bench` and the report ask here. The room rests on nothing of the package, and its
modules import neither torch nor transformers before they must: `plan` and the checks of a checkpoint ask here too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adaptinfer_eval.backbones.anatomy import BARE, Anatomy
from adaptinfer_eval.backbones.family import Family
from adaptinfer_eval.backbones.gemma3 import Gemma3
from adaptinfer_eval.backbones.gemma4 import Gemma4
from adaptinfer_eval.backbones.glm4v import Glm4V
from adaptinfer_eval.backbones.internvl import InternVL
from adaptinfer_eval.backbones.llava import Llava
from adaptinfer_eval.backbones.llava_next import LlavaNext, LlavaOneVision
from adaptinfer_eval.backbones.mistral3 import Mistral3
from adaptinfer_eval.backbones.paligemma import PaliGemma
from adaptinfer_eval.backbones.qwen_vl import Qwen2VL, Qwen3VL, Qwen25VL, Qwen35
from adaptinfer_eval.backbones.smolvlm import Idefics3, SmolVLM
from adaptinfer_eval.backbones.towers import MERGING_TOWERS, clip_tower

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILIES: Mapping[str, type[Family]] = {
    family.model_type: family
    for family in (
        *(Llava, LlavaNext, LlavaOneVision, InternVL, Qwen2VL, Qwen25VL, Qwen3VL, Qwen35),
        *(Gemma3, Gemma4, SmolVLM, Idefics3, PaliGemma, Mistral3, Glm4V),
    )
}
REFUSED: Mapping[str, str] = {
    "mllama": "its vision tokens are not among the decoder's, but seen by cross-attention: there is nothing to drop",
    "gemma3n": "its decoder carries four versions of each token from layer to layer, which only together are one",
    "llama4": "the engine has not been held to a model without it there: its layers attend in chunks",
}
"""Model types that cannot be right, or are not shown to be, and why."""
DEFAULT = Llava.model_type
"""The family that is meant where none is named: the papers'."""


def make_family(model_type: str, arguments: Mapping[str, Any]) -> Family:
    """The family with those of a wrapper's `arguments` that are its own; ValueError where one is not valid."""
    family = FAMILIES[model_type]
    own = {field.name for field in dataclasses.fields(family)}
    return family(**{name: value for name, value in arguments.items() if name in own})


def family_of(config: Any) -> Family:
    """The family of a Hugging Face `config`; ValueError where it is not known."""
    if config.model_type not in FAMILIES:
        known = f"known are {', '.join(FAMILIES)}"
        raise ValueError(
            f"{config.model_type} is not a model that can be pruned: {why_not(config.model_type) or known}"
        )
    return FAMILIES[config.model_type]()


def why_not(model_type: str) -> str:
    """Why a model type is refused; empty where nothing is known of it."""
    return next((why for refused, why in REFUSED.items() if model_type in (refused, f"{refused}_text")), "")


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """Find the parts of `model`; ValueError when its family is not supported."""
    config: Any = model.config
    kind = config.model_type
    if kind in MERGING_TOWERS:  # alone: LLaVA reads the output of its last layer but one
        return Anatomy(text=None, tower=clip_tower(model, config.num_hidden_layers - 1))
    family = FAMILIES.get(kind)
    if family is not None and config.text_config.model_type in family.decoders:
        return family().anatomy(model)
    if kind in BARE:
        decoder: Any = model.model if hasattr(model, "lm_head") else model
        return Anatomy(text=decoder)
    if why := why_not(kind):
        raise ValueError(f"{type(model).__name__} ({kind}) is not a model that can be pruned: {why}")
    raise ValueError(
        f"{type(model).__name__} ({kind}) is not a model that can be pruned; supported are "
        f"{', '.join(FAMILIES)}, the decoders {', '.join(BARE)} alone with inputs_embeds and "
        f"vision_mask=, and {', '.join(MERGING_TOWERS)} for methods of the vision tower"
    )
