"""Methods that choose before the decoder reproduce their official implementations, from the pixels on.

What goes into the decoder of a whole LLaVA around the golden tower: which tokens in which order exactly, rows to 5e-4.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden_data import PATCHES, TEXT_AFTER, TEXT_BEFORE, fields, index, vision_llava, vision_prompt
from torch import Tensor

import adaptinfer_eval as ae

FACTS: dict[str, dict[str, Any]] = index("vision_index")["case_params"]
ELSEWHERE = ("cdpruner", "holov_128_overflow", "prumerge_plus_fixed_144")
"""What needs a text tower, or is made of other attention than the image's, or in training alone."""
CASES = [
    case
    for case, facts in FACTS.items()
    if facts["method"] in ae.available_methods() and not case.startswith(ELSEWHERE)
]


def method_of(case: str) -> Any:
    facts = FACTS[case]
    name = facts["method"]
    options: dict[str, Any] = {name: facts[name] for name in ("important_ratio", "crops") if name in facts}
    if name == "prumerge" and facts["adaptive"]:
        options |= {"budget": None} | ({"variant": "plus"} if facts.get("plus") else {})
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
