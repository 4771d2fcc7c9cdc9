"""Vision tokens of an image, from a checkpoint's configuration. Plain numbers, no torch.

The engine plans with these, and `plan` and the records say the same before anything is loaded. `image_seq_length` is
not asked: older checkpoints do not have it, and its default is that of one model.
"""

from __future__ import annotations

from typing import Any

# Merging needs a tower that hands on any number of tokens: InternVL's pixel shuffle takes whole squares only.
MERGING_TOWERS = ("clip_vision_model",)
CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""LLaVA's vision towers → tokens of theirs that are no patch."""


def image_tokens(config: Any) -> int:
    """Vision tokens of an image (with InternVL, of a tile of it) in the decoder of a Hugging Face `config`.

    ValueError for a vision tower whose images have any size.
    """
    vision = config.vision_config
    if config.model_type == "internvl":
        return int(_patches(vision) * config.downsample_ratio**2)
    if vision.model_type not in CLASS_TOKENS:
        known = ", ".join(CLASS_TOKENS)
        raise ValueError(f"{config.model_type} over {vision.model_type} cannot be pruned: known towers are {known}")
    first = 1 if config.vision_feature_select_strategy == "default" else 0  # dropped, whatever it is
    return _patches(vision) + CLASS_TOKENS[vision.model_type] - first


def merging_layers(config: Any) -> int:
    """Layers of the vision tower that can merge tokens: those up to the one that is read; 0 where none can."""
    vision, read = config.vision_config, getattr(config, "vision_feature_layer", None)
    if (
        vision.model_type not in MERGING_TOWERS
        or not isinstance(read, int)
        or config.vision_feature_select_strategy != "default"
    ):
        return 0
    # hidden_states[0] is the embedding, hidden_states[i] the output of layer i - 1.
    return read if read >= 0 else int(vision.num_hidden_layers) + 1 + read


def _patches(vision: Any) -> int:
    (height, width), (high, wide) = _pair(vision.image_size), _pair(vision.patch_size)
    return (height // high) * (width // wide)


def _pair(size: Any) -> tuple[int, int]:
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return int(height), int(width)
