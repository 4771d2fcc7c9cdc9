"""What Qwen3.5 has of its own: layers that carry a state, in which a token cannot be hidden but only be gone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.qwen_vl import save_qwen3_5
from lmms_tiny import load_wrapper
from test_positions import PROMPTS, answered, by_hand

import adaptinfer_eval as ae
from adaptinfer_eval.pruning import observed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_wrapper(save_qwen3_5(tmp_path_factory.mktemp("tiny"), 16), "qwen3_5", dtype="float64").model


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("adaptinfer", {"schedule": "3:30,7:12,11:4"}),
    ("fastv", {"schedule": "1:9"}),
    ("pdrop", {"schedule": "2:0.4,6:0.2,10:0.05"}),
    ("sparsevlm", {"schedule": "3:30,7:12", "variant": "plus", "priority_heads": 2}),
    ("random", {"schedule": "5:20,9:6"}),
]


@pytest.mark.parametrize(("name", "options"), METHODS)
@pytest.mark.parametrize("prompt", PROMPTS[:2], ids=["one image", "image and video"])
@torch.no_grad()
def test_equals_layers_that_never_see_what_is_dropped(
    model: Any, name: str, options: dict[str, Any], prompt: Any
) -> None:
    text, method = model.model.language_model, ae.get_method(name)(**options)
    wide = copy.copy(prompt)
    wide.embeds, wide.steps = (part.repeat(1, 2).double() for part in (prompt.embeds, prompt.steps))
    found, trace, _ = answered(text, method, [wide])
    kept = {layer: ids[0].tolist() for layer, ids in trace.kept.items()}
    for one, other in zip(found, by_hand(text, wide, kept, method.positions == "renumber"), strict=True):
        # Their states are in float32, whatever the model is in.
        assert torch.allclose(one[0], other, atol=1e-4), (one[0] - other).abs().max()


def test_a_stage_where_nothing_attends_names_those_where_something_does(model: Any) -> None:
    for name, schedule, can in (
        ("fastv", "2:9", r"\[1, 3, 5, 7"),
        ("pdrop", "1:9", r"\[2, 4, 6, 8"),
        ("adaptinfer", "0:9", r"\[1, 3"),
    ):
        with pytest.raises(ValueError, match=rf"so that it can choose after {can}.* alone: say so with layers="):
            ae.pruned(model, ae.get_method(name)(schedule=schedule)).__enter__()
    with pytest.raises(ValueError, match=r"layers \[0, 2, .* do not attend: there is nothing to observe in them"):
        observed(model, lambda layer, received: None).__enter__()


def test_budgets_are_solved_for_the_layers_that_are_named(model: Any, tmp_path: Path) -> None:
    method = ae.get_method("adaptinfer")(budget=16, layers="1,5,11")
    with ae.pruned(model, method):
        pass
    with pytest.raises(ValueError, match="AdaptInfer prunes after layer"):
        ae.pruned(model, ae.get_method("adaptinfer")(budget=16)).__enter__()
