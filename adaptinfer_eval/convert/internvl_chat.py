"""InternVL-Chat as it was published in LLaVA's code (InternViT-6B, a projector, Vicuna) → a LLaVA of transformers.

Both compute the same. Two things are made: position embeddings of the image size that the original code uses, which
resizes them whenever it runs; and a row of the vocabulary for the placeholder of an image, which the original cuts out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import (
    CLIPImageProcessor,
    GenerationConfig,
    InternVLVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from adaptinfer_eval.convert.folders import Source, find_source, new_folder, read_json
from adaptinfer_eval.convert.layout import (
    COMPUTED,
    HEAD_SIZE,
    MEAN,
    STD,
    TOWER,
    check_chat,
    check_tower,
    published,
    text_config,
)
from adaptinfer_eval.convert.tokenizer import llama_tokenizer
from adaptinfer_eval.convert.weights import map_weights, write_weights
from adaptinfer_eval.sweep.errors import SweepError

IMAGE = "<image>"
PATCHES = f"{TOWER}embeddings.patch_embedding.weight"
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")


def convert(source: str, target: Path, tower: str | None, say: Callable[[str], None]) -> None:
    """Write the checkpoint `source` to the new folder `target`; `source` and `tower` are folders or hub ids.

    `tower`: the InternViT-6B, where `source` does not hold it. `say`: told of every file that is written. Tensors keep
    their dtype; positions that are resized are float32. SweepError, before anything is written, where `source` is of
    another layout, or lacks a tensor, or has one too many.
    """
    chat = Chat.read(find_source(source), find_source(tower) if tower else None)
    tokenizer = chat.tokenizer()
    config = chat.config(tokenizer.convert_tokens_to_ids(IMAGE))
    with torch.device("meta"):
        planned = LlavaForConditionalGeneration(config).to(config.dtype).state_dict()
    chat.check(planned)
    with new_folder(target, sum(chat.tensor(name).nbytes for name in planned)) as folder:
        write_weights(folder, planned, chat.tensor, say)
        config.save_pretrained(folder)
        _processor(config, tokenizer).save_pretrained(folder)
        GenerationConfig(  # type: ignore[no-untyped-call]
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            suppress_tokens=[config.image_token_id],  # the original has no such token to answer with
        ).save_pretrained(folder)


@dataclass(frozen=True)
class Chat:
    """A published checkpoint: what its config.json and that of its tower say, and its tensors by their full names."""

    source: Source
    said: Mapping[str, Any]
    said_of_tower: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    @classmethod
    def read(cls, source: Source, tower: Source | None) -> Chat:
        """SweepError where it is of another layout, or there is no tower, or there are two."""
        path = source.folder / "config.json"
        said = read_json(path)
        check_chat(path, said)
        weights = map_weights(source.folder)
        inside = any(name.startswith(TOWER) for name in weights)
        if inside and tower:
            raise SweepError(f"{source.folder} holds its own vision tower: leave --tower out")
        if not inside and not tower:
            raise SweepError(
                f"{source.folder} does not hold its vision tower: give --tower (its config.json calls it "
                f"{said['mm_vision_tower']})"
            )
        if tower is None:
            return cls(source, said, {}, weights)
        path = tower.folder / "config.json"
        said_of_tower = read_json(path)
        check_tower(path, said_of_tower)
        weights |= {TOWER + name: tensor for name, tensor in map_weights(tower.folder).items()}
        return cls(source, said, said_of_tower, weights)

    @property
    def image_size(self) -> int:
        """Pixels of a side: the original code reads it from the tower's name."""
        return 448 if "448" in self.said["mm_vision_tower"] else 336

    def tokenizer(self) -> Any:
        """Vicuna's, with a token for images behind all others."""
        tokenizer = llama_tokenizer(self.source.folder / "tokenizer.model")
        rows = len(self._weight(VOCABULARY[0]))
        if len(tokenizer) != rows:
            raise SweepError(
                f"{self.source.folder}/tokenizer.model has {len(tokenizer)} tokens and the model {rows}: download the "
                "checkpoint again"
            )
        tokenizer.add_tokens([AddedToken(IMAGE, special=True, normalized=False)])
        return tokenizer

    def config(self, image_token: int) -> Any:
        """LlavaConfig of the whole. Sizes of the tower are those of its tensors."""
        width, _, _, patch = self._weight(PATCHES).shape
        numbers = [re.match(rf"{re.escape(TOWER)}encoder\.layers\.(\d+)\.", name) for name in self.weights]
        layers = len({found[1] for found in numbers if found})
        read = self.said["mm_vision_select_layer"]
        if not -layers - 1 <= read <= layers:
            raise SweepError(f"mm_vision_select_layer={read} is of another tower: this one has {layers} layers")
        vision = InternVLVisionConfig(
            hidden_size=width,
            intermediate_size=len(self._weight(f"{TOWER}encoder.layers.0.mlp.fc1.weight")),
            num_hidden_layers=layers,
            num_attention_heads=self.said_of_tower.get("num_attention_heads", width // HEAD_SIZE),
            image_size=self.image_size,
            patch_size=patch,
            use_qk_norm=True,
            norm_type="rms_norm",
        )
        origin: dict[str, Any] = {"converted_from": self.source.origin} if self.source.origin else {}
        return LlavaConfig(
            architectures=[LlavaForConditionalGeneration.__name__],
            vision_config=vision,
            text_config={**text_config(self.said), "vocab_size": image_token + 1},
            image_token_index=image_token,
            image_seq_length=(self.image_size // patch) ** 2,
            vision_feature_layer=read,
            vision_feature_select_strategy="default",  # all but the first token: the patches
            tie_word_embeddings=False,
            dtype=self._weight(VOCABULARY[0]).dtype,
            **origin,
        )

    def check(self, planned: Mapping[str, Tensor]) -> None:
        """SweepError unless the model takes every tensor, and gets every one of its own, in its shape."""
        for name, wanted in planned.items():
            if (found := self.tensor(name).shape) != wanted.shape:
                raise SweepError(
                    f"{published(name)} makes a tensor of {tuple(found)} where {tuple(wanted.shape)} is wanted: "
                    "config.json and weights are of different models, download them again"
                )
        left = sorted(self.weights.keys() - {published(name) for name in planned})
        if left := [name for name in left if not name.endswith(COMPUTED)]:
            others = f" and {len(left) - 1} more" * (len(left) > 1)
            raise SweepError(f"{left[0]}{others}: the layout has no such tensor, so the model is another")

    def tensor(self, name: str) -> Tensor:
        """What the tensor that transformers calls `name` has to be; SweepError where it is not there."""
        found = self._weight(published(name))
        if part := re.search(r"\.vision_tower\..*\.([qkv])_proj\.", name):
            return found.chunk(3)["qkv".index(part[1])]
        if name.endswith(".position_embeddings"):
            return resized(found, self.image_size // self._weight(PATCHES).shape[-1])
        if published(name) in VOCABULARY:
            return torch.cat([found, found[:1]])  # an image's token is as unlikely as the first one, <unk>
        return found

    def _weight(self, name: str) -> Tensor:
        if name not in self.weights:
            raise SweepError(f"{self.source.folder} lacks the tensor {name}: download the checkpoint again")
        return self.weights[name]


def resized(positions: Tensor, side: int) -> Tensor:
    """Position embeddings (1, 1 + patches, D) for `side` × `side` patches, as the original computes them."""
    first, grid = positions[:, :1], positions[:, 1:]
    old = math.isqrt(grid.shape[1])
    if old == side or old**2 != grid.shape[1]:
        return positions
    square = grid.float().transpose(1, 2).reshape(1, -1, old, old)
    square = interpolate(square, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([first.float(), square.flatten(2).transpose(1, 2)], dim=1)


def _processor(config: Any, tokenizer: Any) -> Any:
    side, _ = config.vision_config.image_size
    patch, _ = config.vision_config.patch_size
    images = CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=MEAN, image_std=STD
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
