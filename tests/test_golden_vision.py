"""Methods that choose before the decoder reproduce their official implementations, from the pixels on.

What goes into the decoder of a whole LLaVA around the golden tower: which tokens in which order exactly, rows to 5e-4.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from golden_data import PATCHES, TEXT_AFTER, TEXT_BEFORE, fields, index, vision_llava, vision_prompt
from torch import Tensor

import adaptinfer_eval as ae

FACTS: dict[str, dict[str, Any]] = index("vision_index")["case_params"]
ELSEWHERE = ("cdpruner", "holov_128_overflow")
"""What needs a text tower, or is made of other attention than the image's."""
CASES = [
    case
    for case, facts in FACTS.items()
    if facts["method"] in ae.available_methods() and not case.startswith(ELSEWHERE)
]


def method_of(case: str) -> Any:
    facts = FACTS[case]
    name = facts["method"]
    options: dict[str, Any] = {name: facts[name] for name in ("important_ratio", "crops") if name in facts}
    if name == "prumerge" and facts.get("plus"):
        options["variant"] = "plus"
    if name == "prumerge" and facts["adaptive"]:
        options["budget"] = None
    elif name == "visionzip":
        options["budget"] = facts["dominant"] + facts["contextual"]
    else:
        options["budget"] = facts.get("output", facts.get("count"))
    return ae.get_method(name)(**options)


def entered(model: Any, method: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, ae.Trace]:
    """What goes into layer 0, (B, n, D)."""
    seen: list[Tensor] = []
    with torch.no_grad(), ae.pruned(model, method) as trace:
        first = model.model.language_model.layers[0]
        hook = first.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).clone()),
            with_kwargs=True,
        )
        try:
            model(**inputs)
        finally:
            hook.remove()
    return seen[0], trace


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("seed", ["0", "1"])
@pytest.mark.parametrize("case", CASES)
def test_what_goes_into_the_decoder(case: str, seed: str, attention: str) -> None:
    model, want = vision_llava(FACTS[case].get("projector", "mlp"), attention), fields("vision_cases", f"{seed}/{case}")
    embeds, trace = entered(model, method_of(case), vision_prompt(seed))
    rows, columns = embeds[0, TEXT_BEFORE : embeds.shape[1] - TEXT_AFTER], trace.kept[-1][0]
    assert len(rows) == len(columns) == trace.entering[0, 0]
    length = TEXT_BEFORE + PATCHES + TEXT_AFTER
    made = columns[columns >= length]
    assert made.tolist() == list(range(length, length + len(made)))
    assert (columns[columns < length] - TEXT_BEFORE).tolist() == want["kept"][want["kept"] >= 0].tolist()
    expected = want.get("projected_first4")
    if "features" in want:
        with torch.no_grad():
            expected = model.model.multi_modal_projector(want["features"])
        assert len(rows) == len(expected)
    if expected is not None:
        assert torch.allclose(rows[: len(expected)], expected, atol=5e-4)


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("_64")])
def test_a_model_in_half_precision_chooses_as_float32_would_of_its_features(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model computes is rounded, what a method makes of that is not: it is shown float32."""
    method = method_of(case)
    seen: list[ae.Images] = []
    select = type(method).select

    def noted(self: Any, images: ae.Images, count: int) -> ae.Selection:
        seen.append(images)
        selection: ae.Selection = select(self, images, count)
        return selection

    monkeypatch.setattr(type(method), "select", noted)
    kind, prompt = FACTS[case].get("projector", "mlp"), vision_prompt("0")
    half = copy.deepcopy(vision_llava(kind)).half()
    _, trace = entered(half, method, {**prompt, "pixel_values": prompt["pixel_values"].half()})
    (images,) = seen
    shown = [images.projected, images.hidden, *images.attention.values(), *images.keys.values()]
    assert {values.dtype for values in shown} == {torch.float32}
    with torch.no_grad():
        tower = half.model.vision_tower(prompt["pixel_values"].half(), output_hidden_states=True)
        hidden = tower.hidden_states[-2][:, 1:]
    if images.hidden.shape[2]:
        assert torch.equal(images.hidden, hidden.float())
    assert torch.equal(images.projected, half.model.multi_modal_projector(hidden).float())
    chosen = columns_of(trace)
    _, trace = entered(vision_llava(kind), method, prompt)
    assert len(chosen & columns_of(trace)) > len(chosen) / 2


def columns_of(trace: ae.Trace) -> set[int]:
    return set(trace.kept[-1][0].tolist())
