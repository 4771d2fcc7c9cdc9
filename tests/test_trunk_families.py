"""Every family answers a batch under many methods as under each alone; and a sweep's journals say the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import FAMILIES, crossed
from lmms_tiny import load_wrapper, mixed_documents
from test_trunk import first_stage
from tiny_models import METHODS

import adaptinfer_eval as ae
from adaptinfer_eval import backbones
from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.models.generation import Generation

GENERATION = Generation({"max_new_tokens": 3, "num_beams": 1, "do_sample": False}, (), ())


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_each_method_alone(family: str, tmp_path: Path) -> None:
    """Prompts of unequal length with no, one and two images; then questions about one picture."""
    row = FAMILIES[family]
    wrapper = load_wrapper(row.save(tmp_path, row.layers), family)
    documents = row.asked(mixed_documents())
    one_picture = [{**documents[-1], "question": f"{'What is it? ' * times}"} for times in (1, 2, 3)]
    methods = [ae.get_method(name)(**options) for _, name, options in crossed(METHODS, [family])]
    methods.sort(key=lambda method: first_stage(method, row.layers))
    for asked in (documents, one_picture):
        prompts = [wrapper.prompt([("user", [*map(Image, d["images"]), d["question"]])]) for d in asked]
        batch = wrapper.encode_images(wrapper.encode(prompts), methods)
        together = wrapper.for_methods(batch, methods)
        for method in methods:
            wrapper.method = method
            alone, trace = wrapper.traced_answer(batch, GENERATION)
            shared, own = wrapper.traced_answer(together, GENERATION)
            assert [answer.text for answer in shared] == [answer.text for answer in alone], method
            assert [answer.cost.entering for answer in shared] == [answer.cost.entering for answer in alone], method
            assert trace.kept.keys() == own.kept.keys()
            assert all(torch.equal(trace.kept[layer], own.kept[layer]) for layer in trace.kept), method
        deepest = max(first for method in methods if (first := first_stage(method, row.layers)) < row.layers - 1)
        assert together.trunk.height == (deepest + 1 if backbones.FAMILIES[family].hands_on else 0)
