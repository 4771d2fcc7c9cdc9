"""Trains the tiny LLaVA: python -m tasks.mini.make.train [--seed N]  (from the repository's root)

Stages: vision tower and projector; eight layers on each picture's best patches, first with drills, then with the
harness's questions; eight layers on all 576 patches; 32 layers on them. The last two drop no tokens.
Checkpoints and curves go to logs/mini/seedN; started again, it goes on where it stopped (to start over, or after a
change of the world, delete that folder). On a CPU, OMP_NUM_THREADS=1 and a seed per core is the fastest.
"""

import argparse
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from tasks.mini.make import attention
from tasks.mini.make.loop import DEVICE, Plan, checkpoint, save, train
from tasks.mini.make.network import (
    LAYERS_FINAL,
    LAYERS_FIRST,
    PATCHES,
    build_model,
    grow,
    patch_features,
)
from tasks.mini.make.packing import ALL_DRILLS, FIRST_DRILLS, Packed, best_patches, pack, packed_row
from tasks.mini.make.questions import FAMILIES, Scene
from tasks.mini.make.scene import draw_scene, render
from tasks.mini.make.text import SPECIAL, build_tokenizer, prefix_tokens
from tasks.mini.make.vision import name_attributes, train_vision

PICTURES = 5000  # scenes for the language stages
WEIGHTS = np.array([0.36, 0.24, 0.12, 0.12, 0.16])  # of the families in a row, in the order of FAMILIES
QUESTION_WEIGHT = 4.0  # of a token of an answer: of a question's dozens it is one or two, of a drill's every second
BEST = 32  # patches per picture in the first language stages


@dataclass(frozen=True)
class Stage:
    """What a language stage sees: per step `rows` pictures with `length` text positions of questions each, of which
    `drills` are drills of these `forms`; all 576 patches of a picture if `whole`, else its best 32."""

    plan: Plan
    rows: int
    length: int
    drills: float
    forms: tuple[str, ...]
    whole: bool = True


def first_stages(seed: int) -> list[Stage]:
    """Of the model of eight layers."""
    return [
        Stage(Plan(seed, "first", 900, rate=3e-3, end=0.2), 8, 192, 1.0, FIRST_DRILLS, whole=False),
        Stage(Plan(seed, "drills", 900, rate=2.5e-3, end=0.2), 8, 192, 1.0, ALL_DRILLS, whole=False),
        Stage(Plan(seed, "patches", 2000, rate=2e-3, end=0.1), 8, 256, 0.4, ALL_DRILLS, whole=False),
        Stage(Plan(seed, "whole", 1500, rate=1.5e-3), 4, 384, 0.25, ALL_DRILLS),
    ]


def last_stage(seed: int) -> Stage:
    """Of the model of 32 layers."""
    return Stage(Plan(seed, "deep", 1000, rate=1e-3, warmup=40), 4, 384, 0.15, ALL_DRILLS)


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

    features: (B, P, width) of the patches numbered `patches` (B, P); P may be 0."""
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


def accuracy(logits: Tensor, asked: Tensor, packed: Packed) -> dict[str, float]:
    """Share of questions with every token right, per family."""
    right = torch.zeros_like(asked)
    right[asked] = logits.argmax(-1) == packed.labels[asked]
    tally: dict[str, list[bool]] = {}
    names = [*FAMILIES, "drills"]
    for b in range(len(asked)):
        for question in range(int(packed.question[b].max()) + 1):
            here = (packed.question[b] == question) & asked[b]
            name = names[int(packed.family[b][here][0])]
            tally.setdefault(name, []).append(bool(right[b][here].all()))
    return {name: sum(tally[name]) / len(tally[name]) for name in names if name in tally}


def train_language(model: LlavaForConditionalGeneration, library: Library, stage: Stage) -> None:
    """Trains projector and language model on packed questions."""
    every = torch.arange(PATCHES)
    held_out = build_library(model, 48, stage.plan.seed, held_out=True)

    def answer(rng: np.random.Generator, library: Library, chosen: list[int]) -> tuple[Tensor, Tensor, Packed]:
        rows = [packed_row(rng, library.scenes[i], WEIGHTS, stage.drills, stage.forms, stage.length) for i in chosen]
        packed = pack(rows, stage.length)
        patches = every.expand(len(chosen), -1) if stage.whole else library.best[chosen]
        wanted = patches[:, :, None].expand(-1, -1, library.features.shape[2])
        features = library.features[chosen].gather(1, wanted)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            logits, asked = answer_logits(model, features.to(DEVICE), patches.to(DEVICE), packed)
        return logits, asked, packed

    def loss(rng: np.random.Generator) -> Tensor:
        logits, asked, packed = answer(rng, library, rng.integers(0, len(library.scenes), stage.rows).tolist())
        weight = torch.where(packed.family[asked] < len(FAMILIES), QUESTION_WEIGHT, 1.0)
        wrong = F.cross_entropy(logits, packed.labels[asked], reduction="none")
        return (wrong * weight).sum() / weight.sum()

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        rng, scores = np.random.default_rng(99), []
        for start in range(0, len(held_out.scenes), 16):
            scores.append(accuracy(*answer(rng, held_out, list(range(start, start + 16)))))
        return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}

    trained = torch.nn.ModuleList([model.model.multi_modal_projector, model.model.language_model, model.lm_head])
    train(stage.plan, trained, loss, evaluate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of weights, scenes and questions")
    seed = parser.parse_args().seed
    vocabulary = len(build_tokenizer())
    model = build_model(vocabulary, SPECIAL.index("<image>"), LAYERS_FIRST, seed)
    model.set_attn_implementation(attention.NAME)
    train_vision(model, seed)
    model.model.vision_tower.requires_grad_(False)
    name_attributes(model, seed)
    library = build_library(model, PICTURES, seed)
    for stage in first_stages(seed):
        train_language(model, library, stage)
    deep = grow(model, LAYERS_FINAL)
    deep.set_attn_implementation(attention.NAME)
    deep.model.vision_tower.requires_grad_(False)
    train_language(deep, library, last_stage(seed))


if __name__ == "__main__":
    main()
