"""Writes a trained model as a Hugging Face folder: python -m tasks.mini.make.export [--seed N] [--stage whole]

Earlier stages than the last are grown to the final depth first.
"""

import argparse
from pathlib import Path

import torch
from transformers import GenerationConfig

from tasks.mini.make.loop import checkpoint
from tasks.mini.make.network import LAYERS_FINAL, LAYERS_FIRST, build_model, grow
from tasks.mini.make.text import SPECIAL, build_processor, build_tokenizer

MINI = Path(__file__).resolve().parents[1]
MODEL = MINI / "model"


def folder(seed: int) -> Path:
    """Where the model of a seed lies; the first is the one that everything uses."""
    return MINI / f"model_seed{seed}" if seed else MODEL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stage", choices=("patches", "whole", "deep"), default="deep")
    asked = parser.parse_args()
    layers = LAYERS_FINAL if asked.stage == "deep" else LAYERS_FIRST
    model = build_model(len(build_tokenizer()), SPECIAL.index("<image>"), layers, asked.seed).cpu()
    vision = torch.load(checkpoint(asked.seed, "vision"), map_location="cpu")["module"]
    tower = {name.removeprefix("tower."): weight for name, weight in vision.items() if name.startswith("tower.")}
    model.model.vision_tower.load_state_dict(tower)
    trained = [model.model.multi_modal_projector, model.model.language_model, model.lm_head]
    saved = torch.load(checkpoint(asked.seed, asked.stage), map_location="cpu")
    torch.nn.ModuleList(trained).load_state_dict(saved["module"])
    if layers != LAYERS_FINAL:
        model = grow(model, LAYERS_FINAL).cpu()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)  # type: ignore[no-untyped-call]
    model.set_attn_implementation("sdpa")
    model.bfloat16()
    model.save_pretrained(folder(asked.seed))
    build_processor().save_pretrained(folder(asked.seed))
    print(f"{asked.stage} after {saved['step']} steps, to {folder(asked.seed)}")


if __name__ == "__main__":
    main()
