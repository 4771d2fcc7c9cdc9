"""Methods that read the question before the language model get it, from a caller and from lmms-eval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_checkpoint import save, tiny_clip
from lmms_tiny import load_wrapper, save_tiny_llava
from PIL import Image as Picture
from test_lmms_models import ask
from tiny_models import batch, llava, prompt
from transformers import LlavaForConditionalGeneration, SiglipVisionConfig

import adaptinfer_eval as ae
from adaptinfer_eval.backbones.messages import Image

QUESTIONS = ["t5 t6 t7\nAnswer the question using a single word or phrase.", "t8 t9 " * 60, "t11 t12"]
PROMPTS = [(5, 1, 7, 1), (3, 2, 12, 2), (2, 1, 3, 4)]


def letters(text: str) -> list[int]:
    """A text's tokens, one a letter."""
    return [2 + ord(letter) % 80 for letter in text]


@pytest.fixture(scope="module")
def text_tower(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the CLIP that `tiny_models.llava` has."""
    torch.manual_seed(0)
    model = tiny_clip(llava().config.vision_config.to_dict())
    return save(model, tmp_path_factory.mktemp("clip"))


def options(name: str, text_tower: str) -> dict[str, Any]:
    return {"budget": 12} | ({} if name == "mmtok" else {"text_tower": text_tower})


@pytest.mark.parametrize("name", ["cdpruner", "trim", "mmtok"])
@torch.no_grad()
def test_prompts_of_a_batch_are_chosen_by_their_own_questions(name: str, text_tower: str) -> None:
    model, method = llava(), ae.get_method(name)(**options(name, text_tower))
    singles = [prompt(*facts) for facts in PROMPTS]
    together = batch(singles)
    with ae.pruned(model, method, questions=QUESTIONS, tokenize=letters) as trace:
        logits = model(**together).logits[:, -1]
    for row, (single, question) in enumerate(zip(singles, QUESTIONS, strict=True)):
        padding = together["input_ids"].shape[1] - single["input_ids"].shape[1]
        with ae.pruned(model, method, questions=[question], tokenize=letters) as alone:
            assert torch.allclose(model(**single).logits[0, -1], logits[row], atol=1e-4)
        mine = trace.kept[-1][row]
        assert (mine[mine >= 0] - padding).tolist() == alone.kept[-1][0].tolist()
    with ae.pruned(model, method, questions=["t20 t21"], tokenize=letters) as other:
        model(**singles[0])
    with ae.pruned(model, method, questions=QUESTIONS[:1], tokenize=letters) as first:
        model(**singles[0])
    assert other.kept[-1].tolist() != first.kept[-1].tolist()


@torch.no_grad()
def test_what_is_missing_is_named(text_tower: str) -> None:
    model, single = llava(), prompt(5, 1, 7, 1)
    missing: list[tuple[str, dict[str, Any], str]] = [
        ("cdpruner", {}, "reads the question, which is not known: pass questions="),
        ("mmtok", {"questions": QUESTIONS[:1]}, "pass tokenize= to pruned"),
        ("evs", {}, "was given a still image"),
        ("vidcom2", {}, "was given a still image"),
    ]
    for name, given, why in missing:
        method = ae.get_method(name)(budget=12)
        with pytest.raises(ValueError, match=why), ae.pruned(model, method, **given):
            model(**single)


def test_towers_but_clip_are_refused_before_anything_runs(text_tower: str) -> None:
    config: Any = llava().config
    config.vision_config = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=4,
    )
    config.vision_feature_select_strategy = "full"
    model: Any = LlavaForConditionalGeneration(config)
    model.eval()
    for name in ("cdpruner", "trim"):
        method = ae.get_method(name)(budget=12, text_tower=text_tower)
        why = r"vision tower \(siglip_vision_model\) is none and has no text tower there: use a method that needs none"
        with pytest.raises(ValueError, match=why), ae.pruned(model, method, questions=QUESTIONS[:1]):
            pass


@pytest.mark.parametrize("name", ["cdpruner", "mmtok"])
def test_requests_of_lmms_eval_bring_their_questions(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    checkpoint = save_tiny_llava(tmp_path / "llava")
    model = load_wrapper(checkpoint, "llava")
    tower = save(tiny_clip(model.model.config.vision_config.to_dict()), tmp_path / "clip")
    arguments = ",budget=18" + ("" if name == "mmtok" else f",text_tower={tower}")
    picture = Picture.effect_noise((40, 30), 90).convert("RGB")
    asked = ("Is there a red circle?", "What word?")
    documents = [{"images": [picture], "question": question} for question in asked]
    wrapper = load_wrapper(checkpoint, "llava", name, arguments, batch_size=1)
    seen: list[list[int]] = []
    answer: Callable[..., Any] = wrapper.traced_answer

    def traced(*args: Any, **kwargs: Any) -> Any:
        answers, trace = answer(*args, **kwargs)
        seen.append(trace.kept[-1][0].tolist())
        return answers, trace

    monkeypatch.setattr(wrapper, "traced_answer", traced)
    ask(wrapper, documents)
    by_hand = []
    for question in asked:
        encoded = wrapper.encode([wrapper.prompt([("user", [Image(picture), question])])])
        with (
            torch.no_grad(),
            ae.pruned(
                wrapper.model,
                wrapper.method,
                questions=[question],
                tokenize=lambda text: wrapper.tokenizer(text, add_special_tokens=False)["input_ids"],
            ) as trace,
        ):
            wrapper.model(**encoded.inputs)
        by_hand.append(trace.kept[-1][0].tolist())
    assert sorted(seen) == sorted(by_hand)
    assert by_hand[0] != by_hand[1]
