"""Key text tokens of layers (figure 2): overlaps are those of the sets that the model's own attention gives."""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lmms_tiny import save_tiny_llava
from rich.console import Console
from tiny_models import IMAGE, batch, internvl, llava, prompt

from adaptinfer_eval.analysis.asked import read_asked
from adaptinfer_eval.analysis.key_text import key_text_overlap, measure_key_text
from adaptinfer_eval.pruning import observed
from adaptinfer_eval.pruning.observer import Received

PROMPTS = [prompt(5, 1, 24, 1), prompt(3, 2, 8, 2), prompt(4, 1, 2, 3), prompt(2, 0, 30, 4)]


def overlap(model: Any, inputs: dict[str, torch.Tensor]) -> Any:
    layers: list[Received] = []
    with torch.inference_mode(), observed(model, lambda _, received: layers.append(received)):
        model.generate(**inputs, max_new_tokens=1)
    return key_text_overlap(layers)


def by_hand(model: Any, inputs: dict[str, torch.Tensor]) -> Any:
    """Of one prompt, with sets."""
    with torch.inference_mode():
        attentions = model(**inputs, output_attentions=True).attentions
    after = int((inputs["input_ids"][0] == IMAGE).nonzero().max()) + 1
    importance = [layer[0, :, after:, after:].sum((0, 1)) for layer in attentions]  # Eq. 1, heads summed
    count = int(np.ceil(len(importance[0]) / 5))
    key = [set(layer.argsort(descending=True)[:count].tolist()) for layer in importance]
    return np.array([len(a & b) / len(a | b) for a, b in product(key, key)]).reshape(8, 8)


@pytest.mark.parametrize("family", [llava, internvl])
def test_it_is_what_the_models_own_attention_gives_batched_and_single(family: Any) -> None:
    together, eager = overlap(family(), batch(PROMPTS)), family("eager")
    for row, alone in enumerate(PROMPTS[:3]):
        expected = by_hand(eager, alone)
        assert np.allclose(overlap(family(), alone)[0], expected)
        assert np.allclose(together[row], expected)
        assert (together[row].diagonal() == 1).all()
    assert (together[0] < 1).any()


def test_the_mean_over_samples_is_the_same_for_any_batch_size_and_is_not_measured_twice(tmp_path: Path) -> None:
    checkpoint = save_tiny_llava(tmp_path / "tiny", layers=8)

    def measured(folder: str, batch_size: int) -> dict[str, Any]:
        given = ("key-text", str(checkpoint), ["mini_mmbench"], 6, batch_size, "float32", tmp_path / folder)
        return measure_key_text(read_asked(*given), Console(file=io.StringIO()))

    one = measured("one", 1)
    found = np.array(one["overlap"])
    assert found.shape == (8, 8)
    assert np.array_equal(found, found.T)
    assert (found.diagonal() == 1).all()
    assert 0 < found.min() < 1
    assert np.allclose(measured("four", 4)["overlap"], found)
    assert measured("one", 4) == one
