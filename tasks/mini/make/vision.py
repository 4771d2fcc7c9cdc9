"""The vision side's start: labels of every patch for the CLIP tower, attribute directions for the projector.

Without it nothing after it learns in reasonable time. The heads are thrown away; what they shaped stays.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from tasks.mini.make.loop import DEVICE, Plan, train
from tasks.mini.make.network import TEXT_WIDTH, VISION_WIDTH, look_back, patch_features
from tasks.mini.make.scene import (
    COLORS,
    GLYPHS,
    GRID,
    KINDS,
    SHAPE_NAMES,
    SIDE,
    PatchLabels,
    draw_scene,
    patch_labels,
    render,
)
from tasks.mini.make.text import tokens

HEADS = {  # weight of each class; most patches show nothing, and shapes are the hardest to tell apart
    "kind": [0.05, *[1.0] * len(SHAPE_NAMES), 0.2, 0.1],
    "color": [0.1, *[1.0] * len(COLORS)],
    "part": [0.3, 1.0],
    "glyph": [1.0] * len(GLYPHS),
    "slot": [1.0] * 3,
}
WORDS = {  # what a token of the image can say, and the words for it; no question has a word for tiles
    "kind": (*KINDS[:-1], ""),
    "color": ("", *COLORS),
    "glyph": tuple(GLYPHS),
    "slot": ("", "", ""),
    "side": ("left", "right", "top", "bottom"),
    "place": ("", ""),
}
PICTURES_PER_STEP = 8
SCALE = 0.5  # of a code against the projector's output, which starts at the scale of a word


def _draw(rng: np.random.Generator, count: int) -> tuple[Tensor, list[PatchLabels]]:
    scenes = [draw_scene(rng) for _ in range(count)]
    pictures = torch.from_numpy(np.stack([render(rng, scene) for scene in scenes]))
    return pictures.to(DEVICE), [patch_labels(scene) for scene in scenes]


def _stack(labels: list[PatchLabels], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(label, name) for label in labels])).to(DEVICE)


def _codes(labels: list[PatchLabels]) -> Tensor:
    """What the projector should say about each patch, (B, 576, columns of WORDS), 0 or 2, places in -2..2.

    The colour of a thing is everywhere on it, what it is only in its part's patch: evidence sits in few patches."""
    kind, part = _stack(labels, "kind"), _stack(labels, "part")[..., None] > 0
    codes = {}
    for name in ("kind", "color", "glyph", "slot"):
        value = _stack(labels, name)
        defined = value > 0 if name in ("kind", "color") else value >= 0
        codes[name] = F.one_hot(value.clamp(min=0), len(WORDS[name])) * defined[..., None]
    codes["kind"] = codes["kind"] * (part | (kind == KINDS.index("tile"))[..., None])
    own = torch.stack(torch.meshgrid(*[torch.arange(GRID) + 0.5] * 2, indexing="xy"), -1).flatten(0, 1) / GRID
    place = torch.where(part, _stack(labels, "center"), own.to(DEVICE)) * 2 - 1
    codes["side"] = torch.stack([place < 0, place > 0], -1).flatten(2) * part
    codes["place"] = place
    return torch.cat([codes[name].float() * 2 for name in WORDS], 2)


def _directions(seed: int) -> Tensor:
    """Orthonormal rows (64, 64): a direction of the language model's width for each column of the codes, and more."""
    random = torch.randn(TEXT_WIDTH, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))
    directions: Tensor = torch.linalg.qr(random)[0]
    return directions.to(DEVICE)


class Pretext(nn.Module):
    """Linear heads on every patch of layer -2: what covers it, and where that has its centre; and the projector."""

    def __init__(self, model: LlavaForConditionalGeneration, seed: int) -> None:
        super().__init__()
        self.tower, self.projector = model.model.vision_tower, model.model.multi_modal_projector
        self.heads = nn.ModuleDict({name: nn.Linear(VISION_WIDTH, len(weights)) for name, weights in HEADS.items()})
        self.center = nn.Linear(VISION_WIDTH, 2)
        self.directions = _directions(seed)[: sum(map(len, WORDS.values()))]

    def loss(self, features: Tensor, labels: list[PatchLabels]) -> Tensor:
        """Sum of the heads' and the projector's losses; features (B, 576, width)."""
        error: Tensor = self.center(features) - _stack(labels, "center")
        total: Tensor = error[_stack(labels, "kind") > 0].abs().mean() * 4
        for name, weights in HEADS.items():
            logits, target = self.heads[name](features).flatten(0, 1), _stack(labels, name).flatten()
            total = total + F.cross_entropy(logits, target, torch.tensor(weights, device=DEVICE), ignore_index=-100)
        wrong = (self.projector(features) * SCALE - _codes(labels) @ self.directions).pow(2).mean(-1)
        weight = 1 + 9 * _stack(labels, "part")
        total += 10 * (wrong * weight).sum() / weight.sum()
        return total

    def accuracy(self, features: Tensor, labels: list[PatchLabels]) -> dict[str, float]:
        """Share of parts' patches of which the projector says the right thing, and the mean error of the centre."""
        said = self.projector(features) @ self.directions.T
        scores, column = {}, 0
        for name, words in WORDS.items():
            if name in ("kind", "color", "glyph", "slot"):
                target = _stack(labels, name)
                seen = (_stack(labels, "part") > 0) & (target >= 0)
                right = said[..., column : column + len(words)].argmax(-1) == target
                scores[name] = right[seen].float().mean().item()
            column += len(words)
        error = (self.center(features) - _stack(labels, "center"))[_stack(labels, "kind") > 0]
        return scores | {"center_px": error.abs().mean().item() * SIDE}


def train_vision(model: LlavaForConditionalGeneration, plan: Plan) -> None:
    """Shapes `model`'s vision tower, and its projector to give each attribute a direction; 8 pictures per step."""
    pretext = Pretext(model, plan.seed).to(DEVICE)
    held_out = _draw(np.random.default_rng(7), 32)

    def features(pictures: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            seen: Tensor = patch_features(model, pictures).float()
        return seen

    def loss(rng: np.random.Generator) -> Tensor:
        pictures, labels = _draw(rng, PICTURES_PER_STEP)
        return pretext.loss(features(pictures), labels)

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        return pretext.accuracy(features(held_out[0]), held_out[1])

    train(plan, pretext, loss, evaluate)


@torch.no_grad()
def name_attributes(model: LlavaForConditionalGeneration, seed: int) -> None:
    """Starts the words for what a patch can show in the directions that the projector gives these attributes."""
    embedding = model.model.language_model.embed_tokens.weight
    words = [word for group in WORDS.values() for word in group]
    directions = _directions(seed)
    for word, direction in zip(words, directions, strict=False):
        if word:
            embedding[tokens(word)[-1]] = 4 * direction
    model.lm_head.weight.copy_(embedding / 10)
    embedding += torch.outer(2 - embedding @ directions[-1], directions[-1])
    look_back(model, directions[-1])
