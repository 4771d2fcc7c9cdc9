"""Writes a checkpoint as a Hugging Face folder: python -m tasks.mini.make.export [deep|whole|patches]

Earlier stages than the last are grown to the final depth first.
"""

import sys
from pathlib import Path

import torch
from transformers import GenerationConfig

from tasks.mini.make.loop import LOGS
from tasks.mini.make.network import LAYERS_FINAL, LAYERS_FIRST, build_model, grow
from tasks.mini.make.text import SPECIAL, build_processor, build_tokenizer

MODEL = Path(__file__).resolve().parents[1] / "model"


def main() -> None:
    stage = sys.argv[1] if len(sys.argv) > 1 else "deep"
    layers = LAYERS_FINAL if stage == "deep" else LAYERS_FIRST
    model = build_model(len(build_tokenizer()), SPECIAL.index("<image>"), layers, seed=0)
    vision = torch.load(LOGS / "vision.pt")["module"]
    tower = {name.removeprefix("tower."): weight for name, weight in vision.items() if name.startswith("tower.")}
    model.model.vision_tower.load_state_dict(tower)
    trained = [model.model.multi_modal_projector, model.model.language_model, model.lm_head]
    saved = torch.load(LOGS / f"{stage}.pt")
    torch.nn.ModuleList(trained).load_state_dict(saved["module"])
    if layers != LAYERS_FINAL:
        model = grow(model, LAYERS_FINAL)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)  # type: ignore[no-untyped-call]
    model.set_attn_implementation("sdpa")
    model.bfloat16()
    model.save_pretrained(MODEL)
    build_processor().save_pretrained(MODEL)
    print(f"{stage} after {saved['step']} steps, to {MODEL}")


if __name__ == "__main__":
    main()
