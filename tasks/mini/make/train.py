"""Trains the tiny LLaVA: python -m tasks.mini.make.train [--seed N]  (from the repository's root)

Stages: vision tower and projector, eight layers on each picture's best patches, eight layers on all 576 patches,
32 layers on all 576 patches. Checkpoints and curves go to logs/mini/seedN; started again, it goes on where it stopped
(to start over, or after a change of the world, delete that folder). Nothing here drops tokens after the second stage.
On a CPU, OMP_NUM_THREADS=1 and a seed per core is the fastest.
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
from tasks.mini.make.packing import Packed, best_patches, pack, picture_row, text_row
from tasks.mini.make.questions import FAMILIES, Scene
from tasks.mini.make.scene import draw_scene, render
from tasks.mini.make.text import SPECIAL, build_tokenizer, prefix_tokens
from tasks.mini.make.vision import name_attributes, train_vision

STEPS = {"vision": 2600, "patches": 1500, "whole": 1500, "deep": 600}
PICTURES = 5000  # scenes for the language stages
WEIGHTS = np.array([0.36, 0.24, 0.12, 0.12, 0.16])  # of the families in a row, in the order of FAMILIES
LENGTH = 384  # text positions per row
BEST = 32  # patches per picture in the first language stage


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


def train_language(
    model: LlavaForConditionalGeneration,
    library: Library,
    plan: Plan,
    pictures: int,
    texts: int,
    drills: float,
    whole: bool,
) -> None:
    """Trains projector and language model on packed questions, `pictures` rows per step.

    `texts`: rows without picture, half as many in the second half. `drills`: share of drills at the start; it falls to
    a sixth. `whole`: all 576 patches; else each picture's best 32."""
    every = torch.arange(PATCHES)
    length = LENGTH if whole else LENGTH // 2
    held_out = build_library(model, 48, plan.seed, held_out=True)

    def batch(
        rng: np.random.Generator, library: Library, chosen: list[int], share: float
    ) -> tuple[Tensor, Tensor, Packed]:
        rows = [picture_row(rng, library.scenes[i], WEIGHTS, share, length) for i in chosen]
        patches = every.expand(len(chosen), -1) if whole else library.best[chosen]
        wanted = patches[:, :, None].expand(-1, -1, library.features.shape[2])
        features = library.features[chosen].gather(1, wanted)
        return features.to(DEVICE), patches.to(DEVICE), pack(rows, length)

    def cost(features: Tensor, patches: Tensor, packed: Packed) -> Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            logits, asked = answer_logits(model, features, patches, packed)
        return F.cross_entropy(logits, packed.labels[asked])

    def loss(rng: np.random.Generator, progress: float) -> Tensor:
        share = drills * max(1 / 6, 1 - progress)
        chosen = rng.integers(0, len(library.scenes), pictures).tolist()
        total = cost(*batch(rng, library, chosen, share))
        if blind := texts if progress < 0.5 else texts // 2:
            rows = pack([text_row(rng, LENGTH // 2) for _ in range(blind)], LENGTH // 2)
            nothing = torch.zeros(blind, 0, library.features.shape[2], device=DEVICE)
            total = total + 0.5 * cost(nothing, torch.zeros(blind, 0, dtype=torch.long, device=DEVICE), rows)
        return total

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        rng, scores = np.random.default_rng(99), []
        for start in range(0, len(held_out.scenes), 16):
            features, patches, packed = batch(rng, held_out, list(range(start, start + 16)), 0.0)
            with torch.autocast(DEVICE.type, torch.bfloat16):
                scores.append(accuracy(*answer_logits(model, features, patches, packed), packed))
        return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}

    trained = torch.nn.ModuleList([model.model.multi_modal_projector, model.model.language_model, model.lm_head])
    train(plan, trained, loss, evaluate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of weights, scenes and questions")
    seed = parser.parse_args().seed
    vocabulary = len(build_tokenizer())
    model = build_model(vocabulary, SPECIAL.index("<image>"), LAYERS_FIRST, seed)
    model.set_attn_implementation(attention.NAME)
    train_vision(model, seed, STEPS["vision"])
    model.model.vision_tower.requires_grad_(False)
    name_attributes(model, seed)
    library = build_library(model, PICTURES, seed)
    patches = Plan(seed, "patches", STEPS["patches"], rate=3e-3, end=0.1)
    train_language(model, library, patches, pictures=8, texts=4, drills=0.85, whole=False)
    whole = Plan(seed, "whole", STEPS["whole"], rate=1.5e-3)
    train_language(model, library, whole, pictures=4, texts=4, drills=0.8, whole=True)
    deep = grow(model, LAYERS_FINAL)
    deep.set_attn_implementation(attention.NAME)
    deep.model.vision_tower.requires_grad_(False)
    final = Plan(seed, "deep", STEPS["deep"], rate=1e-3, warmup=40)
    train_language(deep, library, final, pictures=4, texts=0, drills=0.1, whole=True)


if __name__ == "__main__":
    main()
