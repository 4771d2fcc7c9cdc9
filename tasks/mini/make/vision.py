"""The vision side's start: a supervised pretext for the CLIP tower, then attribute codes for the projector.

Without them nothing after it learns in reasonable time; both are thrown away but for the weights they shaped.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from tasks.mini.make.loop import Plan, train
from tasks.mini.make.network import PATCHES, TEXT_WIDTH, VISION_WIDTH, patch_features
from tasks.mini.make.scene import (
    COLORS,
    GLYPHS,
    GRID,
    SHAPE_NAMES,
    PatchLabels,
    draw_scene,
    patch_labels,
    render,
)
from tasks.mini.make.text import tokens

CLASSES = {
    "kind": len(SHAPE_NAMES) + 2,
    "color": len(COLORS) + 1,
    "glyph": len(GLYPHS),
    "slot": 3,
    "length": 2,
}
PICTURES_PER_STEP = 8


def _draw(rng: np.random.Generator, count: int) -> tuple[Tensor, list[PatchLabels]]:
    scenes = [draw_scene(rng) for _ in range(count)]
    pictures = torch.from_numpy(np.stack([render(rng, scene) for scene in scenes]))
    return pictures, [patch_labels(scene) for scene in scenes]


def _stack(labels: list[PatchLabels], name: str) -> Tensor:
    return torch.from_numpy(np.stack([getattr(label, name) for label in labels]))


class Pretext(nn.Module):
    """Linear heads on every patch of layer -2: what it shows, and where the thing it belongs to has its centre."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        self.tower = model.model.vision_tower
        self.heads = nn.ModuleDict({name: nn.Linear(VISION_WIDTH, count) for name, count in CLASSES.items()})
        self.center = nn.Linear(VISION_WIDTH, 2)

    def loss(self, features: Tensor, labels: list[PatchLabels]) -> Tensor:
        """Sum of the heads' losses; features (B, 576, width). Empty patches count a tenth."""
        error: Tensor = self.center(features) - _stack(labels, "center")
        total = error[_stack(labels, "kind") > 0].abs().mean() * 4
        for name, count in CLASSES.items():
            weight = torch.ones(count)
            if name in ("kind", "color"):
                weight[0] = 0.1
            logits, target = self.heads[name](features).flatten(0, 1), _stack(labels, name).flatten()
            total = total + F.cross_entropy(logits.float(), target, weight, ignore_index=-100)
        return total

    def accuracy(self, features: Tensor, labels: list[PatchLabels]) -> dict[str, float]:
        """Share of right patches per head (those on things), and the mean error of the centre in pixels."""
        scores = {}
        for name in CLASSES:
            target = _stack(labels, name)
            seen = target > 0 if name in ("kind", "color") else target >= 0
            right = self.heads[name](features).argmax(-1) == target
            scores[name] = right[seen].float().mean().item()
        error = (self.center(features) - _stack(labels, "center"))[_stack(labels, "kind") > 0]
        return scores | {"center_px": error.abs().mean().item() * GRID * 4}


def train_pretext(model: LlavaForConditionalGeneration, steps: int) -> None:
    """Shapes `model`'s vision tower; 8 pictures per step and process."""
    pretext = Pretext(model)
    held_out = _draw(np.random.default_rng(7), 32)

    def loss(rng: np.random.Generator, _: float) -> Tensor:
        pictures, labels = _draw(rng, PICTURES_PER_STEP)
        with torch.autocast("cpu", torch.bfloat16):
            features = patch_features(model, pictures)
        return pretext.loss(features.float(), labels)

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        with torch.autocast("cpu", torch.bfloat16):
            features = patch_features(model, held_out[0])
        return pretext.accuracy(features.float(), held_out[1])

    train(Plan("vision", steps, rate=2e-3, seed=1), pretext, loss, evaluate)


def _codes(labels: PatchLabels) -> tuple[Tensor, Tensor]:
    """What the projector should say about each patch, (576, 44), and which patches are worth showing (576,)."""
    parts = []
    for name, count in list(CLASSES.items())[:4]:
        value = torch.from_numpy(getattr(labels, name))
        parts.append(F.one_hot(value.clamp(min=0), count).float() * (value >= 0)[:, None] * 2)
    rows, columns = np.mgrid[0:GRID, 0:GRID]
    own = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], -1) / GRID
    thing = labels.kind > 0
    place = torch.from_numpy(np.where(thing[:, None], labels.center, own)).float()
    waves = [(place * 2 - 1) * 1.7, torch.sin(2 * torch.pi * place), torch.cos(2 * torch.pi * place)]
    shown = thing | ((labels.kind == 0) & (np.arange(PATCHES) % 7 == 0))
    return torch.cat([*parts, torch.cat(waves, 1)], 1), torch.from_numpy(shown)


def _directions() -> Tensor:
    """Orthonormal rows (64, 64): one direction of the language model's width for each column of the codes."""
    random = torch.randn(TEXT_WIDTH, TEXT_WIDTH, generator=torch.Generator().manual_seed(2))
    directions: Tensor = torch.linalg.qr(random)[0]
    return directions


@torch.no_grad()
def name_attributes(model: LlavaForConditionalGeneration) -> None:
    """Starts the words for what a patch can show in the directions that the projector gives these attributes."""
    directions, embedding = _directions(), model.model.language_model.embed_tokens.weight
    names = [("", *SHAPE_NAMES, "sign"), ("", *COLORS), tuple(GLYPHS)]
    column = 0
    for words, name in zip(names, CLASSES, strict=False):
        for offset, word in enumerate(words):
            if word:
                embedding[tokens(word)[-1]] = 4 * directions[column + offset]
        column += CLASSES[name]
    place = column + CLASSES["slot"]
    for low, high, axis in (("left", "right", 0), ("top", "bottom", 1), ("above", "below", 1)):
        embedding[tokens(low)[-1]] = -4 * directions[place + axis]
        embedding[tokens(high)[-1]] = 4 * directions[place + axis]
    model.lm_head.weight.copy_(embedding / 10)


def train_projector(model: LlavaForConditionalGeneration, steps: int) -> None:
    """Shapes the projector to give each attribute its own orthogonal direction, at a token's usual scale."""
    rng = np.random.default_rng(21)
    inputs, targets = [], []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(50):
            pictures, labels = _draw(rng, PICTURES_PER_STEP)
            for features, label in zip(patch_features(model, pictures).float(), labels, strict=True):
                code, shown = _codes(label)
                inputs.append(features[shown])
                targets.append(code[shown])
    source, code = torch.cat(inputs), torch.cat(targets)
    target = code @ _directions()[: code.shape[1]]
    target = target / target.pow(2).mean().sqrt()
    projector = model.model.multi_modal_projector
    cut = len(source) * 9 // 10

    def loss(rng: np.random.Generator, _: float) -> Tensor:
        rows = torch.from_numpy(rng.integers(0, cut, 1024))
        error: Tensor = projector(source[rows]) - target[rows]
        return error.pow(2).mean()

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        return {"held_out": (projector(source[cut:]) - target[cut:]).pow(2).mean().item()}

    train(Plan("projector", steps, rate=3e-3, seed=2), projector, loss, evaluate)
