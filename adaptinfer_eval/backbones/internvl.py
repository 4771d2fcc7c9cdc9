"""InternVL (2.5, 3, 3.5) on Hugging Face's own form of its checkpoints, whose names end in -hf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from adaptinfer_eval.backbones.family import Family, Square, patches
from adaptinfer_eval.backbones.options import number
from adaptinfer_eval.backbones.towers import Tower, layers_of, stacked


@dataclass(frozen=True, kw_only=True)
class InternVL(Family):
    """InternVL over a decoder that the engine prunes; prompts are written by the checkpoint's chat template.

    `max_patches`: tiles of 448 × 448 pixels (256 vision tokens) that an image is cut into, at most. 1, the default,
    shows the whole image in one tile, so that every image has the same number of vision tokens. InternVL itself goes
    up to 12. Two tiles or more come with one more that shows the whole image, and a method treats all tiles like as
    many images: a budget per image is one per tile. Its tower does not merge: the pixel shuffle behind it takes whole
    squares only.
    """

    model_type: ClassVar = "internvl"
    title: ClassVar = "InternVL"
    pretrained: ClassVar = "OpenGVLab/InternVL3-8B-hf"

    shapes: ClassVar = {
        # As in the config.json of OpenGVLab/InternVL3-8B-hf.
        "internvl3-8b": {
            "vision_config": {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": [448, 448],
                "patch_size": [14, 14],
                "attention_bias": True,
            },
            "text_config": {
                "model_type": "qwen2",
                "vocab_size": 151674,
                "hidden_size": 3584,
                "intermediate_size": 18944,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
            },
            "image_token_id": 151667,
            "tie_word_embeddings": False,
        },
    }

    max_patches: int = number(1, "a whole number of tiles")

    @property
    def square(self) -> Square | None:
        """Tiles are squares one by one: with several to a picture, a token's place in it is not known here."""
        return "stretch" if self.max_patches == 1 else None

    def image_tokens(self, config: Any) -> int:
        """Of a tile."""
        return int(patches(config.vision_config) * config.downsample_ratio**2)

    def tower(self, multimodal: Any) -> Tower | None:
        """A token is 2 × 2 patches side by side, and so are they in the projector's input."""
        config, model = multimodal.config, multimodal.vision_tower
        layers, read = layers_of(model), config.vision_feature_layer
        if not isinstance(read, int) or config.vision_feature_select_strategy != "default":
            return None
        return stacked(
            model,
            layers,
            len(layers) + read if read < 0 else read - 1,  # -1 and the number of layers: the last one's
            multimodal.multi_modal_projector,
            attention="attention",
            class_tokens=1,
            side=int(1 / config.downsample_ratio),
            shuffled=True,
        )

    def load_processor(self, pretrained: str, revision: str, config: Any) -> Any:
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        processor = super().load_processor(pretrained, revision, config)
        # Pillow resizes, as in InternVL's own code. Not by backend="pil": the video part has no such backend.
        processor.image_processor = GotOcr2ImageProcessorPil.from_pretrained(
            pretrained, revision=revision, max_patches=self.max_patches
        )
        # As many placeholders as the model makes features, whether the processor's own file says how many or not.
        processor.image_seq_length = self.image_tokens(config)
        return processor
