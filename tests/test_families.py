"""What holds for every family of models under every method; what is a family's own is in tests of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, LOOKING, MAKING, crossed, refused
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager
from lmms_tiny import load_wrapper, mixed_documents
from oracle import last_logits
from test_lmms_models import METHODS as BUDGETED
from test_lmms_models import ask
from tiny_models import BEFORE, METHODS, takes_features
from torch import Tensor

import adaptinfer_eval as ae
from adaptinfer_eval import backbones
from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.models.batch import Batch
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.pruning import observed
from adaptinfer_eval.pruning.observer import Received
from adaptinfer_eval.pruning.releases import cache_of

PACKAGE = Path(__file__).parent.parent / "adaptinfer_eval"
REFUSED = [
    (family, *method, reason)
    for method in METHODS
    for family, row in FAMILIES.items()
    if (reason := refused(row, *method))
]
WRAPPED = {**BUDGETED, "fastv": ",schedule=1:10"}  # what a budget can be depends on an image's tokens
STEPS = 4
Document = dict[str, Any]


def test_the_table_has_every_family() -> None:
    assert FAMILIES.keys() == backbones.FAMILIES.keys()


def test_the_worked_example_is_the_family_s_own_file() -> None:
    page = (PACKAGE.parent / "docs" / "backbones.md").read_text()
    example = page[page.index("## To add one") :]
    (code,) = re.findall(r"```python\n(@dataclass.*?)```", example, re.DOTALL)
    assert code.strip() in (PACKAGE / "backbones" / "mistral3.py").read_text()
    assert len(example.splitlines()) <= 60


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: row.save(tmp_path_factory.mktemp(family), row.layers) for family, row in FAMILIES.items()}


@pytest.fixture(scope="module")
def load(checkpoints: dict[str, Path]) -> Callable[..., Any]:
    """In double precision: what random weights make of rounding would choose other tokens in a batch."""

    def load(family: str, method: str = "vanilla", arguments: str = "", size: int = 4, simple: bool = False) -> Any:
        return load_wrapper(checkpoints[family], family, method, arguments, size, simple, "float64")

    return load


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return mixed_documents()


# The engine ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(load: Callable[..., Any]) -> Callable[..., Any]:
    """A model of the family by itself, which ends no answer, set to an attention; as good as new for each test."""
    loaded: dict[str, Any] = {}
    own: dict[str, str] = {}  # what caps attention's logits does so in eager alone, whatever a release chooses

    def tiny(family: str, attention: str | None = None) -> Any:
        if family not in loaded:
            loaded[family] = load(family)
            loaded[family].model.generation_config.eos_token_id = None
            loaded[family].shares_prefixes = False
            text = loaded[family].anatomy.text.config
            own[family] = "eager" if getattr(text, "attn_logit_softcapping", None) else text._attn_implementation
        loaded[family].model.set_attn_implementation(attention or own[family])
        return loaded[family]

    return tiny


def encoded(wrapper: Any, documents: Sequence[Document]) -> Batch:
    asked = [wrapper.prompt([("user", [*map(Image, d["images"]), d["question"]])]) for d in documents]
    batch: Batch = wrapper.encode(asked)
    return replace(batch, inputs=batch.inputs.to(wrapper.model.dtype))


@torch.no_grad()
def generated(wrapper: Any, method: ae.Method | None, inputs: Any, **options: Any) -> tuple[Any, Any]:
    """What `generate` gives, and the trace."""
    asked = {"max_new_tokens": STEPS, "do_sample": False, "pad_token_id": wrapper.tokenizer.pad_token_id, **options}
    asked |= {"output_logits": True, "return_dict_in_generate": True}
    asked |= {"suppress_tokens": list(wrapper.anatomy.vision_ids)}  # a random model may well say <image>
    if method is None:
        return wrapper.model.generate(**inputs, **asked), None
    with ae.pruned(wrapper.model, method) as trace:
        return wrapper.model.generate(**inputs, **asked), trace


def continued(family: str, inputs: Any, answer: Tensor) -> dict[str, Tensor]:
    """`inputs` with some tokens of an answer behind them."""
    types = {"attention_mask": 1, **FAMILIES[family].answer_types}
    of_tokens = [name for name, value in inputs.items() if value.shape == inputs["input_ids"].shape]
    longer = {n: torch.nn.functional.pad(inputs[n], (0, len(answer)), value=types.get(n, 0)) for n in of_tokens}
    longer["input_ids"][0, inputs["input_ids"].shape[1] :] = answer
    return {**inputs, **longer}


@pytest.mark.parametrize(("family", "name", "options"), crossed(METHODS))
def test_batched_is_single(
    tiny: Callable[..., Any], documents: list[Document], family: str, name: str, options: dict[str, Any]
) -> None:
    wrapper, method, documents = tiny(family), ae.get_method(name)(**options), FAMILIES[family].asked(documents)
    batch = encoded(wrapper, documents)
    together, trace = generated(wrapper, method, batch.inputs)
    real = batch.inputs["attention_mask"].sum(1)
    assert len(set(real.tolist())) == len(documents)
    assert [bool(images) for images in trace.images] == [bool(document["images"]) for document in documents]
    for row, document in enumerate(documents):
        alone, own = generated(wrapper, method, encoded(wrapper, [document]).inputs)
        padding = int(real.max() - real[row])
        assert together.sequences[row, real.max() :].tolist() == alone.sequences[0, real[row] :].tolist()
        error = (torch.stack(together.logits)[:, row] - torch.stack(alone.logits)[:, 0]).abs().max()
        assert error < FAMILIES[family].rounding, f"row {row}: {error}"
        assert trace.entering[row].tolist() == own.entering[0].tolist()
        for layer, kept in own.kept.items():
            mine = trace.kept[layer][row]
            assert (mine[mine >= 0] - padding).tolist() == kept[0].tolist(), f"layer {layer}"
    text = real - wrapper.anatomy.is_vision(batch.inputs["input_ids"]).sum(1)
    for layer in wrapper.anatomy.attending:
        longest = int((trace.entering[:, layer] + text).max())
        assert cache_of(together).get_seq_length(layer) == longest + STEPS - 1


@pytest.mark.parametrize(
    ("family", "name", "options"), [case for case in crossed(METHODS) if case[1] not in ("vanilla", "tome", "vscan")]
)
@torch.no_grad()
def test_equals_a_model_without_cache_and_engine(
    tiny: Callable[..., Any], documents: list[Document], family: str, name: str, options: dict[str, Any]
) -> None:
    """And a loop over the model's own forward is what `generate` is."""
    wrapper, method = tiny(family), ae.get_method(name)(**options)
    if getattr(method, "merged_count", lambda _: 0)(20) or name in MAKING:
        pytest.skip("tokens that are made are in no column: reference data tests them")
    if FAMILIES[family].hybrid:
        pytest.skip("tokens that a layer without attention has seen cannot be hidden: test_qwen3_5.py drops them")
    inputs = encoded(wrapper, documents[2:3]).inputs
    found, trace = generated(wrapper, method, inputs)
    prompt, kept = inputs["input_ids"].shape[1], {layer: ids[0].tolist() for layer, ids in trace.kept.items()}
    wrapper = tiny(family, "written_out")
    # Before the decoder, a shorter prompt is counted; on several axes every token keeps its place.
    positions = getattr(method, "positions", "keep" if wrapper.anatomy.several_axes else "renumber")
    renumbers = positions == "renumber"
    for step in range(STEPS):
        whole = continued(family, inputs, found.sequences[0, prompt : prompt + step])
        logits = last_logits(wrapper.model, whole, kept, renumbers, prompt)
        error = (logits - found.logits[step][0]).abs().max()
        assert error < 1e-5, f"step {step}: {error}"


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (family, name)
        for family, name, _ in crossed((name, {}) for name in ("fastv", "random", "fastervlm", "divprune"))
    ],
)
def test_a_method_that_keeps_all_changes_nothing_and_leaves_nothing_behind(
    tiny: Callable[..., Any], documents: list[Document], family: str, name: str
) -> None:
    """Bit for bit, under both rules: fastv keeps positions, random numbers anew; and before the decoder."""
    wrapper = tiny(family)
    inputs = encoded(wrapper, documents[2:3]).inputs
    tokens = int(wrapper.anatomy.is_vision(inputs["input_ids"]).sum())
    if name in BEFORE:
        method = ae.get_method(name)(budget=0.9999)
    else:
        method = ae.get_method(name)(schedule=FAMILIES[family].placed(f"1:{tokens}", name))
        assert method.positions == {"fastv": "keep", "random": "renumber"}[name]
    generated(wrapper, None, inputs)  # transformers leaves hooks of its own
    modules = list(wrapper.model.modules())
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in modules]
    before, _ = generated(wrapper, None, inputs)
    kept, trace = generated(wrapper, method, inputs)
    after, _ = generated(wrapper, None, inputs)
    assert next(iter(trace.kept.values())).shape == (1, tokens)
    assert torch.equal(torch.stack(before.logits), torch.stack(kept.logits))
    assert torch.equal(torch.stack(before.logits), torch.stack(after.logits))
    assert hooks == [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in modules]


@pytest.mark.parametrize("family", [family for family, row in FAMILIES.items() if not row.hybrid])
@torch.no_grad()
def test_attention_is_the_model_s_own(tiny: Callable[..., Any], documents: list[Document], family: str) -> None:
    """What text gives to vision tokens in every layer; and PDrop looks at the layer that is about to run."""
    wrapper = tiny(family)
    inputs, seen = encoded(wrapper, documents[2:3]).inputs, dict[int, Received]()
    with observed(wrapper.model, seen.__setitem__):
        wrapper.model(**inputs)
    with ae.pruned(wrapper.model, ae.get_method("pdrop")(schedule="1:9")) as trace:
        wrapper.model(**inputs)
    eager = tiny(family, "eager").model(**inputs, output_attentions=True).attentions
    vision = wrapper.anatomy.is_vision(inputs["input_ids"])[0]
    text = len(vision) - 1 - int(vision.nonzero()[-1])
    for layer, own in enumerate(eager):
        received = own[0, :, -text:, vision].sum((0, 1)).float()
        assert torch.allclose(seen[layer].vision[0], received, atol=1e-4), f"layer {layer}"
    best = eager[2][0, :, -1, vision].mean(0).topk(9).indices.sort().values
    assert trace.kept[1][0].tolist() == vision.nonzero()[best, 0].tolist()


@pytest.mark.parametrize(
    ("family", "name", "options"),
    crossed([*((name, {"schedule": "1:12,3:5"}) for name in ("adaptinfer", "pdrop")), ("fastervlm", {"budget": 12})]),
)
def test_beam_search_in_a_batch(
    tiny: Callable[..., Any], documents: list[Document], family: str, name: str, options: dict[str, Any]
) -> None:
    wrapper, method = tiny(family), ae.get_method(name)(**options)
    documents = FAMILIES[family].asked(documents)
    batch = encoded(wrapper, documents)
    together, _ = generated(wrapper, method, batch.inputs, num_beams=3)
    longest = batch.inputs["input_ids"].shape[1]
    for row, document in enumerate(documents):
        inputs = encoded(wrapper, [document]).inputs
        alone, _ = generated(wrapper, method, inputs, num_beams=3)
        own = inputs["input_ids"].shape[1]
        assert together.sequences[row, longest:].tolist() == alone.sequences[0, own:].tolist()


@pytest.mark.parametrize(("family", "name", "options", "reason"), REFUSED)
def test_what_a_family_cannot_do_is_refused_with_the_reason(
    tiny: Callable[..., Any], documents: list[Document], family: str, name: str, options: dict[str, Any], reason: str
) -> None:
    wrapper = tiny(family)
    with pytest.raises(ValueError, match=reason):
        generated(wrapper, ae.get_method(name)(**options), encoded(wrapper, documents[2:3]).inputs)


@pytest.mark.parametrize("family", FAMILIES)
def test_plans_refuse_what_the_engine_refuses(family: str) -> None:
    for name, options in METHODS:
        method = ae.get_method(name)(**options)
        merges = getattr(method, "merged_count", lambda _: 0)(20) > 0 or getattr(method, "makes", False)
        before = method.before(8)
        looks = before is not None and before.look(0, 1).tower
        why = backbones.FAMILIES[family].refuses(looks, merges)
        # ToMe's place and PruMerge's class token are looked for in the tower; whether tokens are whole tiles, and
        # where, only images tell.
        in_tiles = family == "llava_next" and name in LOOKING
        if name not in ("tome", "downsample", "prumerge") and not in_tiles:
            assert bool(why) == bool(refused(FAMILIES[family], name, options)), name


# Inside lmms-eval ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ae.available_methods())
def test_there_is_a_model_of_both_kinds(family: str, method: str) -> None:
    chat, simple = (get_model(f"{method}_{family}", force_simple=kind) for kind in (False, True))
    assert (chat.is_simple, simple.is_simple) == (False, True)
    assert chat.method_name == simple.method_name == method
    assert chat.family_type is simple.family_type is backbones.FAMILIES[family]
    assert get_model(f"{method}_{family}") is chat


@pytest.mark.parametrize(("family", "method", "arguments"), crossed([*WRAPPED.items()]))
def test_a_mixed_batch_answers_as_single_requests(
    load: Callable[..., Any], documents: list[Document], family: str, method: str, arguments: str
) -> None:
    single, batched = (load(family, method, arguments, size) for size in (1, 4))
    documents = FAMILIES[family].asked(documents)
    alone = ask(single, documents)
    assert ask(batched, documents) == alone
    assert len(set(alone)) == len(documents)  # so that another order could not pass
    assert batched.audit() == pytest.approx(single.audit())


@takes_features
@pytest.mark.parametrize("family", FAMILIES)
def test_features_encoded_once_give_the_same_answers(
    load: Callable[..., Any], documents: list[Document], family: str
) -> None:
    """Also where questions about one picture share what they begin with, and with the options that see prompts."""
    model = load(family, "adaptinfer", FAMILIES[family].placed(WRAPPED["adaptinfer"], "adaptinfer"))
    asked = [*documents, {**documents[0], "question": "What is on it?"}]
    for options in ({}, {"num_beams": 3}, {"repetition_penalty": 3.0}):
        generation = Generation.read({"max_new_tokens": 8, **options})
        for some in (FAMILIES[family].asked(documents), [asked[0], asked[4]]):
            batch = encoded(model, some)
            shared = model.encode_images(batch)
            assert shared.features is not None
            texts = [[answer.text for answer in model.answer(each, generation)] for each in (batch, shared, shared)]
            assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("simple", [False, True], ids=["chat", "simple"])
@pytest.mark.parametrize("family", FAMILIES)
def test_lmms_eval_runs_a_task(load: Callable[..., Any], manager: TaskManager, family: str, simple: bool) -> None:
    def run(batch_size: int) -> tuple[dict[int, str], Any]:
        schedule = FAMILIES[family].placed(WRAPPED["adaptinfer"], "adaptinfer")
        model = load(family, "adaptinfer", schedule, batch_size, simple)
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
    assert audit["requests"] == 8
    assert audit["entering"] < audit["vision_tokens"]
    assert audit["schedule"].startswith(FAMILIES[family].placed("0:20,1:10,2:5", "adaptinfer"))


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager("WARNING")
