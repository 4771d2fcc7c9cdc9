"""What holds for every family of models under every method; what is a family's own is in tests of its own."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, crossed
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from lmms_tiny import load_wrapper
from PIL import Image as Picture
from test_batches import ANY_IMAGES
from test_lmms_models import METHODS as WRAPPED
from test_lmms_models import ask
from test_package import imported
from tiny_models import IMAGE_TOKENS, LAYER_METHODS, batch, prompt, takes_features

import adaptinfer_eval as ae
from adaptinfer_eval import backbones
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.requests import Image

PACKAGE = Path(__file__).parent.parent / "adaptinfer_eval"
DECODERS = [(name, decoder) for name, family in backbones.FAMILIES.items() for decoder in family.decoders]
REFUSED = [(name, method) for name, row in FAMILIES.items() for method in row.refuses]


def test_the_table_has_every_family() -> None:
    assert FAMILIES.keys() == backbones.FAMILIES.keys()


@pytest.mark.parametrize("path", sorted((PACKAGE / "backbones").glob("*.py")), ids=lambda path: path.stem)
def test_families_rest_on_the_ground_floor_alone(path: Path) -> None:
    ours = {name for name in imported(path) if name.startswith("adaptinfer_eval")}
    assert not {name for name in ours if not name.startswith("adaptinfer_eval.backbones")}


def test_nobody_else_knows_a_family() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "backbones":
            said = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not said & backbones.FAMILIES.keys(), f"{path}: ask adaptinfer_eval.backbones"


# The engine ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "decoder"), DECODERS)
@pytest.mark.parametrize(("name", "options"), LAYER_METHODS)
@torch.no_grad()
def test_a_model_equals_its_decoder_on_the_same_embeddings(
    name: str, options: dict[str, Any], family: str, decoder: str, attention: str
) -> None:
    model, method = FAMILIES[family].build(attention, decoder), ae.get_method(name)(**options)
    inputs = batch([prompt(*facts) for facts in ANY_IMAGES])
    with ae.pruned(model, method) as trace:
        logits = model(**inputs).logits[:, -1]
    mask = inputs["input_ids"] == model.config.image_token_id
    features = torch.cat(list(model.get_image_features(inputs["pixel_values"]).pooler_output))
    embeds = model.get_input_embeddings()(inputs["input_ids"]).masked_scatter(mask[..., None], features)
    with ae.pruned(model.model.language_model, method, vision_mask=mask) as bare:
        hidden = model.model.language_model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])[0]
    assert torch.allclose(model.lm_head(hidden[:, -1]), logits, atol=1e-5)
    assert trace.kept.keys() == bare.kept.keys()
    assert all(torch.equal(trace.kept[layer], bare.kept[layer]) for layer in bare.kept)


@pytest.mark.parametrize("name", ["fastv", "random"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_method_that_keeps_all_changes_nothing(family: str, name: str) -> None:
    """Bit for bit, under both rules: fastv keeps positions, random numbers anew."""
    model, method = FAMILIES[family].build(), ae.get_method(name)(schedule=f"1:{IMAGE_TOKENS}")
    asked = {"max_new_tokens": 4, "output_logits": True, "return_dict_in_generate": True}
    inputs = prompt(5, 1, 7, 1)
    whole = model.generate(**inputs, **asked).logits
    with ae.pruned(model, method) as trace:
        kept = model.generate(**inputs, **asked).logits
    assert method.positions == {"fastv": "keep", "random": "renumber"}[name]
    assert trace.kept[1].shape == (1, IMAGE_TOKENS)
    assert all(map(torch.equal, kept, whole))


@pytest.mark.parametrize(("family", "method"), REFUSED)
def test_what_a_family_cannot_do_is_refused_with_the_reason(family: str, method: str) -> None:
    attached = ae.pruned(FAMILIES[family].build(), ae.get_method(method)(budget=40))
    with pytest.raises(ValueError, match=FAMILIES[family].refuses[method]):
        attached.__enter__()


# Inside lmms-eval ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: row.save(tmp_path_factory.mktemp(family)) for family, row in FAMILIES.items()}


@pytest.fixture(scope="module")
def load(checkpoints: dict[str, Path]) -> Callable[..., Any]:
    return lambda family, *options: load_wrapper(checkpoints[family], family, *options)


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    """Questions of unequal length over 1, 0, 2, 1 images of unequal shape."""
    rng = np.random.default_rng(0)
    documents = []
    for index, count in enumerate((1, 0, 2, 1)):
        sizes = [(20 + 7 * index, 60 - 3 * image, 3) for image in range(count)]
        images = [Picture.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]
        documents.append({"images": images, "question": "Is there a red circle? " * (index + 1)})
    return documents


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ae.available_methods())
def test_there_is_a_model_of_both_kinds(family: str, method: str) -> None:
    chat, simple = (get_model(f"{method}_{family}", force_simple=kind) for kind in (False, True))
    assert (chat.is_simple, simple.is_simple) == (False, True)
    assert chat.method_name == simple.method_name == method
    assert chat.family_type is simple.family_type is backbones.FAMILIES[family]
    assert get_model(f"{method}_{family}") is chat


@pytest.mark.parametrize(("family", "method", "arguments"), crossed(WRAPPED.items()))
def test_a_mixed_batch_answers_as_single_requests(
    load: Callable[..., Any], documents: list[dict[str, Any]], family: str, method: str, arguments: str
) -> None:
    single, batched = (load(family, method, arguments, size) for size in (1, 4))
    alone = ask(single, documents)
    assert ask(batched, documents) == alone
    assert len(set(alone)) == len(documents)  # so that another order could not pass
    assert batched.audit() == pytest.approx(single.audit())


@takes_features
@pytest.mark.parametrize("family", FAMILIES)
def test_features_encoded_once_give_the_same_answers(
    load: Callable[..., Any], documents: list[dict[str, Any]], family: str
) -> None:
    model = load(family, "adaptinfer", WRAPPED["adaptinfer"])
    prompts = [model.prompt([("user", [*map(Image, d["images"]), d["question"]])]) for d in documents]
    encoded, generation = model.encode(prompts), Generation.read({"max_new_tokens": 8})
    shared = model.encode_images(encoded)
    assert shared.features is not None
    texts = [[answer.text for answer in model.answer(batch, generation)] for batch in (encoded, shared, shared)]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("simple", [False, True], ids=["chat", "simple"])
@pytest.mark.parametrize("family", FAMILIES)
def test_lmms_eval_runs_a_task(load: Callable[..., Any], manager: TaskManager, family: str, simple: bool) -> None:
    def run(batch_size: int) -> tuple[dict[int, str], Any]:
        model = load(family, "adaptinfer", WRAPPED["adaptinfer"], batch_size, simple)
        results = simple_evaluate(
            model=model,
            tasks=["mini_mme"],
            task_manager=manager,
            limit=8,
            datetime_str=f"batch {batch_size}",
            bootstrap_iters=0,
        )
        assert "mme_perception_score,none" in results["results"]["mini_mme"]
        return {s["doc_id"]: s["filtered_resps"][0] for s in results["samples"]["mini_mme"]}, model.audit()

    (alone, audit), (together, _) = run(1), run(4)
    assert alone == together
    assert (audit["requests"], audit["vision_tokens"]) == (8, 36)
    assert audit["schedule"] == "0:20,1:10,2:5"


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager("WARNING")
