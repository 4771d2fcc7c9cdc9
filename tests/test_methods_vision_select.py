"""What methods before the decoder make of a tower's tensors: what the authors' code does, alone and in a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from golden_data import fields, index
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

import adaptinfer_eval as ae
from adaptinfer_eval.methods.cover import cover
from adaptinfer_eval.methods.seen import cosines
from adaptinfer_eval.methods.tower import Images, Selection
from adaptinfer_eval.sweep.cells import plan
from adaptinfer_eval.sweep.config import load_config

NAMES = ("visionzip", "vispruner", "scope", "holov", "prumerge")
PARAMS = index("vision_index")["case_params"]
CASES = [case for case in PARAMS if PARAMS[case]["method"] in NAMES]
READ, DEPTH = 22, 24


def method_of(case: str) -> tuple[Any, int]:
    """The method that makes the official run of `case`, and how many rows it is to give."""
    facts = PARAMS[case]
    options = {name: facts[name] for name in ("important_ratio", "crops") if name in facts}
    if facts.get("plus"):
        options["variant"] = "plus"
    if facts.get("adaptive"):
        return ae.get_method("prumerge")(budget=None, **options), 0
    count = facts.get("count") or facts.get("output") or facts["dominant"] + facts["contextual"]
    return ae.get_method(facts["method"])(budget=count, **options), count


def project(rows: Tensor) -> Tensor:
    weights = fields("vision_cases", "projector_mlp")
    inside = F.gelu(F.linear(rows, weights["0.weight"], weights["0.bias"]))
    return F.linear(inside, weights["2.weight"], weights["2.bias"])


def view(hidden: Tensor, attention: Tensor, keys: dict[int, Tensor], queries: Tensor) -> Images:
    return Images(
        projected=project(hidden[:, 1:]),
        hidden=hidden[:, 1:],
        cls=hidden[:, 0],
        grid=None,
        project=project,
        attention={READ: attention},
        keys=keys,
        queries={DEPTH - 1: queries},
    )


def golden(*seeds: str) -> Images:
    """Images of the golden tower, as a batch."""
    towers = [fields("vision_cases", f"{seed}/tower") for seed in seeds]
    names = ("hidden", "cls_attention", "keys_mean", "k_last", "q_last_cls")
    hidden, attention, keys, last, query = (torch.stack([tower[name] for tower in towers]) for name in names)
    return view(hidden, attention, {READ: keys[:, :, None], DEPTH - 1: last[:, :, None]}, query[:, None])


def drawn(count: int, tokens: int) -> Images:
    """Images whose neighbouring tokens are alike, of a tower with two heads."""
    torch.manual_seed(tokens)
    hidden = torch.randn(count, tokens + 2, 32)
    hidden = hidden[:, 1:] + hidden[:, :-1] + torch.randn(count, 1, 32)
    attention = torch.randn(count, 2, tokens).softmax(-1)
    keys = {layer: torch.randn(count, tokens + 1, 2, 16) for layer in (READ, DEPTH - 1)}
    return view(hidden, attention, keys, torch.randn(count, 2, 16))


def mapped(images: Images, change: Callable[[Tensor], Tensor]) -> Images:
    """With every tensor changed."""
    assert images.cls is not None
    return replace(
        images,
        projected=change(images.projected),
        hidden=change(images.hidden),
        cls=change(images.cls),
        attention={layer: change(tensor) for layer, tensor in images.attention.items()},
        keys={layer: change(tensor) for layer, tensor in images.keys.items()},
        queries={layer: change(tensor) for layer, tensor in images.queries.items()},
    )


def select(method: Any, images: Images, count: int) -> Selection:
    """What it selects, given no more than it asks for."""
    look = method.look(READ, DEPTH)
    asked = replace(
        images,
        hidden=images.hidden if look.hidden else images.hidden[..., :0],
        cls=images.cls if look.hidden else None,
        attention={layer: images.attention[layer] for layer in look.attention},
        keys={layer: images.keys[layer] for layer in look.keys},
        queries={layer: images.queries[layer] for layer in look.queries},
    )
    selection: Selection = method.select(asked, count)
    return selection


def entering(selection: Selection, images: Images) -> Tensor:
    """The rows that go into the decoder, (I, n, D)."""
    if selection.rows is not None:
        return selection.rows
    rows = images.projected if selection.made is None else torch.cat([images.projected, selection.made], 1)
    return rows.take_along_dim(selection.index[..., None], 1)


@pytest.mark.parametrize("seed", ["0", "1"])
@pytest.mark.parametrize("case", CASES)
def test_is_the_official_choice(case: str, seed: str) -> None:
    want, images = fields("vision_cases", f"{seed}/{case}"), golden(seed)
    if "attention" in want:
        images = replace(images, attention={READ: want["attention"][None, None]})
    method, count = method_of(case)
    selection = select(method, images, count)
    (chosen,), (rows,) = selection.index.tolist(), entering(selection, images)
    made = {"visionzip": [576, *range(577, 577 + PARAMS[case].get("contextual", 0))], "prumerge": [576]}
    assert [number for number in chosen if number < 576] == [number for number in want["kept"].tolist() if number >= 0]
    if "features" in want:
        assert [number for number in chosen if number >= 576] == made[PARAMS[case]["method"]]
        unprojected = select(method, replace(images, project=lambda rows: rows, projected=images.hidden), count)
        features = entering(unprojected, replace(images, projected=images.hidden))[0]
        assert torch.allclose(features, want["features"], atol=5e-5), (features - want["features"]).abs().max()
    if "projected_first4" in want:
        assert torch.allclose(rows[:4], want["projected_first4"], atol=5e-5)
    if "allocation" in want:
        crops = PARAMS[case]["crops"]
        sizes = torch.tensor([576 // crops + (crop < 576 % crops) for crop in range(crops)])
        crop_of = torch.repeat_interleave(sizes)
        taken = crop_of[selection.index[selection.index < 576]].bincount(minlength=crops)
        assert taken.tolist() == want["allocation"].minimum(sizes).tolist()
        assert not rows[int(taken.sum()) :].any()
    if PARAMS[case]["method"] == "scope":
        order = cover(cosines(images.hidden), count, images.attention[READ].sum(1))
        assert order[0].tolist() == want["order"].tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("source", ["golden", "drawn"])
def test_chooses_in_a_batch_as_alone(name: str, source: str) -> None:
    images = golden("0", "1", "0") if source == "golden" else drawn(5, 75)
    for count in (1, 2, 24, 33, 64):
        method = ae.get_method(name)(budget=count)
        together = select(method, images, count)
        assert together.index.shape == (len(images.hidden), count)
        rows = entering(together, images)
        for image in range(len(images.hidden)):
            own = mapped(images, lambda tensor, image=image: tensor[image : image + 1])  # type: ignore[misc]
            alone = select(method, own, count)
            assert torch.equal(alone.index[0], together.index[image])
            assert torch.allclose(entering(alone, own)[0], rows[image], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_waits_for_no_device(name: str) -> None:
    """On tensors without numbers: whoever reads one, or a shape that depends on one, fails."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        images = mapped(drawn(3, 75), mode.from_tensor)
        assert select(ae.get_method(name)(budget=20), images, 20).index.shape == (3, 20)


def test_an_adaptive_count_has_to_wait() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, pytest.raises(DataDependentOutputException):
        select(ae.get_method("prumerge")(budget=None), mapped(drawn(1, 75), mode.from_tensor), 0)


@pytest.mark.parametrize("name", NAMES)
def test_of_equal_tokens_the_first_go_on(name: str) -> None:
    images = mapped(drawn(2, 64), torch.ones_like)
    chosen = select(
        ae.get_method(name)(budget=16, **({"important_ratio": 1} if name == "vispruner" else {})), images, 16
    )
    numbers = [number for number in chosen.index[0].tolist() if number < 64]
    assert numbers == (list(range(0, 64, 4)) if name == "holov" else list(range(len(numbers))))


@pytest.mark.parametrize("name", ["vispruner", "scope"])
def test_all_tokens_stay_in_order(name: str) -> None:
    images = drawn(2, 75)
    selection = select(ae.get_method(name)(budget=75), images, 75)
    assert torch.equal(entering(selection, images), images.projected)


@pytest.mark.parametrize(("tokens", "count", "ratio"), [(75, 20, 0.5), (76, 21, 0.5), (75, 31, 0.0), (40, 3, 0.4)])
def test_vispruner_splits_odd_lists(tokens: int, count: int, ratio: float) -> None:
    images = drawn(1, tokens)
    unit = F.normalize(images.hidden[0].double(), dim=1)
    left = images.attention[READ][0].mean(0).argsort(descending=True).tolist()
    kept, left = left[: int(count * ratio)], left[int(count * ratio) :]
    while excess := len(left) - (count - len(kept)):
        first, second = left[0::2], left[1::2]
        nearest = {token: max(float(unit[token] @ unit[other]) for other in second) for token in first}
        left = sorted(first, key=lambda token, nearest=nearest: -nearest[token])[min(excess, 8) :] + second  # type: ignore[misc]
    method = ae.get_method("vispruner")(budget=count, important_ratio=ratio)
    assert select(method, images, count).index[0].tolist() == sorted(kept + left)


@pytest.mark.parametrize("crops", [16, 5, 1, None])
def test_similarity_has_no_say_in_holov(crops: int | None) -> None:
    images, method = golden("0", "1"), ae.get_method("holov")(budget=64, crops=crops)
    chosen = select(method, images, 64).index
    other = replace(images, projected=torch.randn_like(images.projected))
    assert torch.equal(select(method, other, 64).index, chosen)


@pytest.mark.parametrize(("budget", "crops"), [(64, 16), (128, 8), (192, 5), (576, 1), (1, 576)])
def test_holov_has_fewer_crops_for_more_tokens(budget: int, crops: int) -> None:
    images = golden("0")
    chosen = select(ae.get_method("holov")(budget=budget, crops=None), images, budget).index
    assert torch.equal(chosen, select(ae.get_method("holov")(budget=budget, crops=crops), images, budget).index)


def test_without_a_class_token() -> None:
    images = replace(drawn(2, 75), cls=None, queries={})
    images = replace(images, keys={layer: keys[:, 1:] for layer, keys in images.keys.items()})
    method = ae.get_method("visionzip")(budget=32)
    chosen = select(method, images, 32).index
    assert ((chosen < 75).sum(1) == 27).all()
    assert chosen[:, 27:].tolist() == [[75, 76, 77, 78, 79]] * 2


def test_prumerge_needs_tokens_that_stand_out() -> None:
    images = mapped(golden("0"), torch.ones_like)
    selection = select(ae.get_method("prumerge")(budget=None), images, 0)
    assert selection.index.tolist() == [[576]]
    with pytest.raises(ValueError, match="no token of the image stands out"):
        select(ae.get_method("prumerge")(budget=None, variant="plus"), images, 0)


@pytest.mark.parametrize("name", NAMES)
def test_costs_on_paper(name: str) -> None:
    shape = {"num_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "text_tokens": 66}
    for budget, entering in ((64, 64), (0.25, 144), (576, 576)):
        audit = ae.audit(ae.get_method(name)(budget=budget), vision_tokens=576, **shape)
        assert audit.entering == audit.leaving == entering
    with pytest.raises(ValueError, match="the image has only 576 vision tokens"):
        ae.audit(ae.get_method(name)(budget=577), vision_tokens=576, **shape)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vispruner", {"budget": 64, "important_ratio": 1.5}, "between 0 and 1"),
        ("holov", {"budget": 64, "crops": 0}, "at least one crop"),
        ("prumerge", {"budget": 64, "variant": "+"}, "plain and plus"),
        ("prumerge", {"budget": None, "per": "prompt"}, "nothing to count or to share"),
        ("visionzip", {"budget": None}, "takes a number"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ae.get_method(name)(**options)


def test_prumerge_plus_has_even_distances_for_some_budgets_alone() -> None:
    shape = {"num_layers": 32, "hidden_size": 4096, "intermediate_size": 11008, "text_tokens": 66}
    assert ae.audit(ae.get_method("prumerge")(budget=129, variant="plus"), vision_tokens=576, **shape).entering == 129
    with pytest.raises(ValueError, match="55 and 61 and 65 are near"):
        ae.audit(ae.get_method("prumerge")(budget=64, variant="plus"), vision_tokens=576, **shape)


def test_what_prumerge_keeps_is_measured() -> None:
    method = ae.get_method("prumerge")(budget=None)
    assert method.counts_itself
    assert not ae.get_method("prumerge")(budget=64).counts_itself
    assert method.describe(32, 576) == "before:adaptive"
    with pytest.raises(ValueError, match="it is measured"):
        method.entering(32, 576)


def test_a_method_that_counts_for_itself_runs_without_a_cost_on_paper() -> None:
    (planned,) = plan(load_config("mini", ["methods=[{name: prumerge, budget: null}]", "count=entering"]))
    assert (planned.audit, planned.runs) == (None, True)
    assert "is measured" in planned.reason
    (refused,) = plan(load_config("mini", ["methods=[vtw]", "budgets=64"]))
    assert (refused.audit, refused.runs) == (None, False)
