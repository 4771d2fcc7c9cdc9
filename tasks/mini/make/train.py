"""Trains the tiny LLaVA: python -m tasks.mini.make.train [--seed N]  (from the repository's root)

Stages: vision tower and projector; eight layers on each picture's best patches, first with drills, then with the
harness's questions; eight layers on all 576 patches; 32 layers on them. The last two drop no tokens. Checkpoints and
curves go to logs/mini/seedN; started again, it goes on where it stopped (to start over, or after a change of the world
or of the stages, delete that folder). On a CPU, OMP_NUM_THREADS=1 and a seed per core is the fastest.
"""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from tasks.mini.make import attention
from tasks.mini.make.drills import ALL_DRILLS, FIRST_DRILLS
from tasks.mini.make.loop import DEVICE, Plan, checkpoint, save, train
from tasks.mini.make.network import (
    LAYERS_FINAL,
    LAYERS_FIRST,
    PATCHES,
    build_model,
    grow,
    patch_features,
)
from tasks.mini.make.packing import Packed, best_patches, draw_row, pack
from tasks.mini.make.questions import FAMILIES, Scene
from tasks.mini.make.scene import draw_scene, render
from tasks.mini.make.text import SPECIAL, build_tokenizer, prefix_tokens
from tasks.mini.make.vision import name_attributes, train_vision

PICTURES = 5000  # scenes for the language stages
WEIGHTS = np.array([0.36, 0.24, 0.12, 0.12, 0.16])  # of the families in a row, in the order of FAMILIES
ANSWER_WEIGHT = 4.0  # of a token that answers the harness, against one of a drill
BEST = 32  # patches per picture in the stages that show not all


@dataclass(frozen=True)
class Lesson:
    """A stage of the language model: per step `rows` pictures, each with questions in `length` text positions.

    `drills`: how likely the next of them is a drill of `forms`. Pictures have all 576 patches if `whole`, else their
    best 32."""

    plan: Plan
    layers: int
    rows: int
    length: int
    drills: float
    forms: tuple[str, ...]
    whole: bool


def lessons(seed: int) -> list[Lesson]:
    """In the order in which they are taken."""
    first = Plan(seed, "first", 900, rate=3e-3, end=0.2)
    drills = Plan(seed, "drills", 900, rate=2.5e-3, end=0.2)
    patches = Plan(seed, "patches", 2000, rate=2e-3, end=0.1)
    whole = Plan(seed, "whole", 1500, rate=1.5e-3)
    deep = Plan(seed, "deep", 1000, rate=1e-3, warmup=40)
    return [
        Lesson(first, LAYERS_FIRST, rows=8, length=192, drills=1.0, forms=FIRST_DRILLS, whole=False),
        Lesson(drills, LAYERS_FIRST, rows=8, length=192, drills=1.0, forms=ALL_DRILLS, whole=False),
        Lesson(patches, LAYERS_FIRST, rows=8, length=256, drills=0.4, forms=ALL_DRILLS, whole=False),
        Lesson(whole, LAYERS_FIRST, rows=4, length=384, drills=0.25, forms=ALL_DRILLS, whole=True),
        Lesson(deep, LAYERS_FINAL, rows=4, length=384, drills=0.15, forms=ALL_DRILLS, whole=True),
    ]


@dataclass(frozen=True)
class Library:
    """Scenes with the frozen vision tower's features (n, 576, width) and each picture's best patches (n, 32)."""

    scenes: list[Scene]
    features: Tensor
    best: Tensor


@torch.no_grad()
def build_library(model: LlavaForConditionalGeneration, count: int, seed: int, held_out: bool = False) -> Library:
    """At least `count` scenes, drawn for this model alone; those held out are the same for all."""
    path = checkpoint(seed, f"library-{'held-out' if held_out else count}")
    if path.exists():
        return Library(*torch.load(path, weights_only=False))
    rng = np.random.default_rng((5,) if held_out else (3, seed))
    scenes, features, best = [], [], []
    for _ in range(0, count, 16):
        some = [draw_scene(rng) for _ in range(16)]
        pictures = torch.from_numpy(np.stack([render(rng, scene) for scene in some])).to(DEVICE)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            features.append(patch_features(model, pictures).bfloat16().cpu())
        best += [best_patches(rng, scene, BEST) for scene in some]
        scenes += some
    parts = scenes, torch.cat(features), torch.stack(best)
    save(parts, path)
    return Library(*parts)


def answer_logits(
    model: LlavaForConditionalGeneration, features: Tensor, patches: Tensor, packed: Packed
) -> tuple[Tensor, Tensor]:
    """Logits (K, vocabulary) at the K labelled positions, and which they are (B, T).

    features: (B, P, width) of the patches numbered `patches` (B, P)."""
    rows, length = packed.ids.shape
    begin = torch.tensor(prefix_tokens(), device=DEVICE)
    embed = model.get_input_embeddings()
    image = model.model.multi_modal_projector(features.float())
    inputs = torch.cat([embed(begin).expand(rows, -1, -1), image, embed(packed.ids)], 1)
    before = inputs.shape[1] - length
    places = [torch.arange(len(begin), device=DEVICE).expand(rows, -1), len(begin) + patches]
    positions = torch.cat([*places, len(begin) + PATCHES + packed.positions], 1)
    same = packed.question[:, :, None] == packed.question[:, None, :]
    mask = torch.zeros(rows, 1, length, before + length, dtype=torch.bfloat16, device=DEVICE)
    mask[:, 0, :, before:].masked_fill_(~same.tril(), float("-inf"))
    hidden = model.model.language_model(
        inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False
    ).last_hidden_state[:, before:]
    asked = packed.labels >= 0
    return model.lm_head(hidden[asked]).float(), asked


def count_right(logits: Tensor, asked: Tensor, packed: Packed, tally: dict[str, list[bool]]) -> None:
    """Adds to `tally`, by family or "drills", of every question whether each of its tokens is right."""
    right = torch.zeros_like(asked)
    right[asked] = logits.argmax(-1) == packed.labels[asked]
    names = [*FAMILIES, "drills"]
    for b in range(len(asked)):
        for question in range(int(packed.question[b].max()) + 1):
            here = (packed.question[b] == question) & asked[b]
            tally.setdefault(names[int(packed.family[b][here][0])], []).append(bool(right[b][here].all()))


def train_language(model: LlavaForConditionalGeneration, library: Library, lesson: Lesson) -> None:
    """Trains projector and language model on packed questions."""
    every = torch.arange(PATCHES)
    held_out = build_library(model, 48, lesson.plan.seed, held_out=True)

    def answer(rng: np.random.Generator, source: Library, chosen: list[int]) -> tuple[Tensor, Tensor, Packed]:
        scenes = [source.scenes[i] for i in chosen]
        rows = [draw_row(rng, scene, WEIGHTS, lesson.drills, lesson.forms, lesson.length) for scene in scenes]
        packed = pack(rows, lesson.length)
        patches = every.expand(len(chosen), -1) if lesson.whole else source.best[chosen]
        wanted = patches[:, :, None].expand(-1, -1, source.features.shape[2])
        features = source.features[chosen].gather(1, wanted)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            logits, asked = answer_logits(model, features.to(DEVICE), patches.to(DEVICE), packed)
        return logits, asked, packed

    def loss(rng: np.random.Generator) -> Tensor:
        logits, asked, packed = answer(rng, library, rng.integers(0, len(library.scenes), lesson.rows).tolist())
        weight = torch.where(packed.family[asked] < len(FAMILIES), ANSWER_WEIGHT, 1.0)
        wrong = F.cross_entropy(logits, packed.labels[asked], reduction="none")
        return (wrong * weight).sum() / weight.sum()

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        rng, tally = np.random.default_rng(99), dict[str, list[bool]]()
        for start in range(0, len(held_out.scenes), 16):
            count_right(*answer(rng, held_out, list(range(start, start + 16))), tally)
        return {name: sum(hits) / len(hits) for name, hits in tally.items()}

    trained = torch.nn.ModuleList([model.model.multi_modal_projector, model.model.language_model, model.lm_head])
    train(lesson.plan, trained, loss, evaluate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of weights, scenes and questions")
    seed = parser.parse_args().seed
    vocabulary = len(build_tokenizer())
    model = build_model(vocabulary, SPECIAL.index("<image>"), LAYERS_FIRST, seed)
    model.set_attn_implementation(attention.NAME)
    train_vision(model, Plan(seed, "vision", 2600, rate=2e-3))
    name_attributes(model, seed)
    library = build_library(model, PICTURES, seed)
    for lesson in lessons(seed):
        if lesson.layers > len(model.model.language_model.layers):
            model = grow(model, lesson.layers)
        model.set_attn_implementation(attention.NAME)
        model.model.vision_tower.requires_grad_(False)
        train_language(model, library, lesson)


if __name__ == "__main__":
    main()
