"""What a family of vision-language models says of itself: its file in this folder answers for it here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adaptinfer_eval.backbones.anatomy import ONE_AXIS, THREE_AXES, Anatomy
from adaptinfer_eval.backbones.messages import Message, checkpoint_template
from adaptinfer_eval.backbones.towers import Tower, pair

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import BatchFeature

Square = Literal["pad", "crop", "stretch"]
"""How a picture becomes square: the mean colour around it, the central square alone, or both sides made equal."""


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """A family with the choices that a user has made: its fields, which are also arguments of its models in lmms-eval.

    What is said here holds for a decoder behind a projector, fed as many vision tokens for every image, in whose place
    an image's placeholders stand. `config` is a checkpoint's, as transformers reads it or as config.json has it.
    """

    model_type: ClassVar[str]
    """What config.json calls it, and lmms-eval, behind the method: `fastv_llava`."""
    title: ClassVar[str]
    """What its classes in lmms-eval are called, before `Chat` and `Simple`."""
    pretrained: ClassVar[str]
    """The checkpoint that is meant where none is named."""
    decoders: ClassVar[tuple[str, ...]] = ONE_AXIS
    """The model types of the decoders that it is pruned over."""
    left_out: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "llama": {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008},
    }
    """What config.json leaves out: transformers' defaults by model type, known without importing it."""
    image_inputs: ClassVar[Mapping[str, str]] = {"pixel_values": "image tokens"}
    """What a processor makes of images and videos: names → what its rows are a multiple of, of each prompt.

    "image tokens", "images", "video tokens", "videos", "prompts", or "prompts with images".
    """
    apart: ClassVar[bool] = False
    """Whether its processor wants to be told which pictures are of one prompt."""
    repeats_frames: ClassVar[bool] = False
    """Whether all videos of a batch have to have as many frames: short ones then show some twice."""
    alike: ClassVar[bool] = False
    """See `Anatomy.alike`."""
    in_rows: ClassVar[bool] = False
    """See `Anatomy.in_rows`."""
    first_position: ClassVar[int] = 0
    """Where positions begin."""
    follows: ClassVar[tuple[str, ...]] = ()
    """See `Anatomy.follows`."""
    hands_on: ClassVar[bool] = True
    """Whether methods share what its first layers compute: not where caches slide, or layers carry a state."""
    any_size: ClassVar[bool] = False
    """Whether images of other sizes have other numbers of vision tokens."""
    unseen: ClassVar[str] = ""
    """Why methods cannot look at its vision tower; empty where they can."""
    shapes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Models that are measured with random weights: name → what their config.json says."""

    def __post_init__(self) -> None:
        """ValueError where a choice is not valid."""
        for option in fields(self):
            value = option.metadata["check"](option.name, getattr(self, option.name))
            object.__setattr__(self, option.name, value)

    @property
    def square(self) -> Square | None:
        """How a picture becomes the square whose patches are, row by row, its vision tokens; None where they are none.

        Figures lay kept tokens over a picture by it.
        """
        return None

    # From the configuration alone, without torch ------------------------------------------------------------------

    @abstractmethod
    def image_tokens(self, config: Any) -> int:
        """Vision tokens of an image in the decoder, of a usual one where they differ (`any_size`).

        ValueError for a vision tower that is not known.
        """

    def merging_layers(self, config: Any) -> int:
        """Layers of the vision tower that can merge tokens: those up to the one that is read; 0 where none can."""
        return 0

    def vision_ids(self, config: Any) -> tuple[int, ...]:
        """Ids of the placeholders that vision tokens take the place of, the image's first."""
        return (config.image_token_id,)

    @classmethod
    def sees_before(cls) -> bool:
        """Whether tokens stand in one row, and each sees those before it and no others, also within an image."""
        return not (cls.follows or set(cls.decoders) & {*THREE_AXES})

    @classmethod
    def refuses(cls, looks: bool, merges: bool) -> str:
        """Why it cannot run a method that `looks` at the vision tower, or `merges` tokens; empty where it can."""
        if looks and cls.unseen:
            return f"chooses by what the vision tower computes: {cls.unseen}"
        if merges and not cls.sees_before():
            return "merges tokens, which have no place here: use a method or variant that only drops them"
        return ""

    # The model ----------------------------------------------------------------------------------------------------

    def anatomy(self, model: Any) -> Anatomy:
        """The parts of `model`, the whole one or its multimodal part."""
        config, inner = model.config, model.model if hasattr(model, "lm_head") else model
        if self.follows and inner is model:
            raise ValueError(f"{type(model).__name__} does not make the masks that it needs: give the whole model")
        return Anatomy(
            text=self.decoder(inner),
            multimodal=inner,
            tower=self.tower(inner),
            unseen=self.unseen,
            vision_ids=self.vision_ids(config),
            image_tokens=0 if self.any_size else self.image_tokens(config),
            alike=self.alike,
            in_rows=self.in_rows,
            first_position=self.first_position,
            follows=self.follows,
            masks=getattr(model, "create_masks_for_generate", None) if self.follows else None,
        )

    def decoder(self, multimodal: Any) -> Any:
        """The decoder stack of a model's multimodal part."""
        return multimodal.language_model

    def tower(self, multimodal: Any) -> Tower | None:
        """The vision tower of a model's multimodal part, where methods can look at it."""
        return None

    @classmethod
    def of(cls, model: Any) -> Family:
        """The family with the choices that a model at hand has made itself."""
        return cls()

    @classmethod
    def measured(cls, model: Any) -> Any:
        """A model of one of `shapes`, set to what the papers measure."""
        return model

    # How it is asked ----------------------------------------------------------------------------------------------

    def load_processor(self, pretrained: str, revision: str, config: Any) -> Any:
        """The processor of a checkpoint, set up for the family's image input and for the model of `config`."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(pretrained, revision=revision)  # type: ignore[no-untyped-call]

    def mark(self, processor: Any) -> str:
        """What stands for an image in a conversation's text."""
        return str(processor.image_token)

    def conversation(self, messages: Sequence[Message], processor: Any, end: Callable[[], str]) -> str:
        """The messages as text that ends where the answer begins, one `mark` per image.

        `end`: what the model ends an answer with.
        """
        return checkpoint_template(messages, processor)

    def spelled(self, text: str, processor: Any) -> str:
        """A conversation's text as the processor must be given it, so that the tokens are the family's own."""
        return text

    @property
    def video_frames(self) -> int:
        """Frames of a video that are shown; 0 where none is."""
        return 0

    def process(
        self, processor: Any, texts: Sequence[str], pictures: Sequence[Sequence[Any]], **options: Any
    ) -> BatchFeature:
        """The model's inputs for prompts: their conversations, `spelled`, and the pictures of each.

        `options`: also the videos of all.
        """
        flat = [picture for of_one in pictures for picture in of_one]
        images = [list(of_one) for of_one in pictures] if self.apart else flat
        inputs: BatchFeature = processor(text=list(texts), images=images if flat else None, **options)
        return inputs

    # Images ------------------------------------------------------------------------------------------------------

    @property
    def encodes(self) -> bool:
        """Whether the model takes its images as `encode` makes them, and not as it would itself."""
        return False

    def encode(self, model: Any, images: Mapping[str, Tensor]) -> Any:
        """The model's own output for images: rows of a processor's inputs, those of `image_inputs`."""
        return model.get_image_features(**images)

    def token_types(self, is_image: Tensor) -> Mapping[str, Tensor]:
        """What the model wants beside input_ids, of prompts whose images are where `is_image` (B, L) says."""
        return {}

    def random_images(self, config: Any, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Of one prompt each, as a processor would give them; each has `image_tokens`."""
        import torch

        height, width = pair(config.vision_config.image_size)
        return {"pixel_values": torch.rand(count, 3, height, width, generator=generator)}


def patches(vision: Any) -> int:
    """Patches of an image in a vision tower of one image size."""
    (height, width), (high, wide) = pair(vision.image_size), pair(vision.patch_size)
    return (height // high) * (width // wide)
