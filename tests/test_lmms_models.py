"""The lmms-eval wrapper answers as the model does: in order, cut where asked, the same in batches, never silently."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lmms_eval.api.instance import Instance
from lmms_tiny import load_wrapper, save_tiny_llava
from PIL import Image as Picture

from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.backbones.vicuna import VICUNA_SYSTEM
from adaptinfer_eval.models.generation import Generation
from adaptinfer_eval.models.requests import RequestError

MINI_MODEL = Path(__file__).parent.parent / "tasks" / "mini" / "model"
Document = dict[str, Any]
METHODS = {
    "vanilla": "",
    "adaptinfer": ",schedule=0:20/1:10/2:5",
    "sparsevlm": ",schedule=0:20/1:10/2:5",
    "pdrop": ",schedule=0:0.5/1:0.25",
    "fastv": ",budget=20",
    "random": ",schedule=1:10",
    "foreground": ",schedule=1:10/2:4",
    "other_question": ",schedule=0:20/1:10/2:5",
    "tome": ",budget=18",
    "downsample": ",budget=9",
    "fastervlm": ",budget=9",
    "divprune": ",budget=12",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def load(checkpoint: Path) -> Callable[..., Any]:
    return functools.partial(load_wrapper, checkpoint, "llava")


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    """Questions of unequal length over 1, 0, 2, 1, 1 images of unequal shape."""
    rng = np.random.default_rng(0)
    documents = []
    for index, count in enumerate((1, 0, 2, 1, 1)):
        images = [
            Picture.fromarray(rng.integers(0, 256, (20 + 7 * index, 40 - 3 * image, 3), dtype=np.uint8))
            for image in range(count)
        ]
        documents.append({"images": images, "question": "Is there a red circle? " * (index + 1)})
    return documents


def to_messages(document: Document) -> list[dict[str, Any]]:
    content = [{"type": "image", "url": image} for image in document["images"]]
    return [{"role": "user", "content": [*content, {"type": "text", "text": document["question"]}]}]


def questions(documents: list[Document], to_messages: Any = to_messages, **generation: Any) -> list[Instance]:
    return [
        Instance(
            "generate_until",
            (document["question"], to_messages, {"max_new_tokens": 8, **generation}, index, "quiz", "test"),
            0,
            metadata={"task": "quiz", "doc_id": index, "repeats": 1},
        )
        for index, document in enumerate(documents)
    ]


def ask(model: Any, documents: list[Document], **generation: Any) -> list[str]:
    model.task_dict = {"quiz": {"test": documents}}
    return [answer.text for answer in model.generate_until(questions(documents, **generation))]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_mixed_batch_answers_as_single_requests_in_order(
    load: Callable[..., Any], documents: list[Document], method: str, beams: int
) -> None:
    single, batched = (load(method, METHODS[method], batch_size=size) for size in (1, 4))
    alone = ask(single, documents, num_beams=beams)
    assert ask(batched, documents, num_beams=beams) == alone
    assert len(set(alone)) == len(documents)  # so that another order could not pass
    assert batched.audit() == pytest.approx(single.audit())


def test_one_request_by_hand(load: Callable[..., Any], documents: list[Document]) -> None:
    model = load(batch_size=1)
    text = f"{VICUNA_SYSTEM} USER: <image> <image>\n{documents[2]['question']} ASSISTANT:"
    inputs = model.processor(text=text, images=documents[2]["images"], return_tensors="pt")
    assert int((inputs["input_ids"] == model.processor.image_token_id).sum()) == 72
    with torch.no_grad():
        output = model.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    by_hand = model.processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert ask(model, documents)[2] == by_hand.strip()


def test_simple_and_chat_models_ask_alike(load: Callable[..., Any], documents: list[Document]) -> None:
    chat, simple = load("fastv", ",budget=20"), load("fastv", ",budget=20", simple=True)
    simple.task_dict = {"quiz": {"test": documents}}
    asked = [
        Instance(
            "generate_until",
            (request.args[0], request.args[2], lambda document: document["images"], *request.args[3:]),
            0,
            metadata=request.metadata,
        )
        for request in questions(documents)
    ]
    assert [answer.text for answer in simple.generate_until(asked)] == ask(chat, documents)


def test_until_cuts_the_answer_and_ends_generation(load: Callable[..., Any], documents: list[Document]) -> None:
    model = load()
    whole = ask(model, documents, max_new_tokens=12)
    stop = whole[0][4:6]
    model.task_dict = {"quiz": {"test": documents}}
    cut = model.generate_until(questions(documents, max_new_tokens=12, until=[stop, "never said"]))
    assert [answer.text for answer in cut] == [text.split(stop)[0].strip() for text in whole]
    model.task_dict = {"quiz": {"test": documents[:1]}}
    ended = model.generate_until(questions(documents[:1], max_new_tokens=12, until=stop))[0]
    assert ended.token_counts.output_tokens < 12


def test_generation_arguments_are_honoured_and_left_alone(load: Callable[..., Any], documents: list[Document]) -> None:
    model = load()
    model.task_dict = {"quiz": {"test": documents}}
    for limit in (2, 12):
        counts = [
            a.token_counts.output_tokens for a in model.generate_until(questions(documents, max_new_tokens=limit))
        ]
        assert max(counts) == limit
    assert ask(model, documents, temperature=0, do_sample=True) == ask(model, documents)
    torch.manual_seed(0)
    assert ask(model, documents, temperature=5.0, top_p=0.9) != ask(model, documents)
    requests = questions(documents, until=["x"], temperature=0, top_p=1.0, image_aspect_ratio="original")
    before = [dict(request.args[2]) for request in requests]
    model.generate_until(requests)
    assert [request.args[2] for request in requests] == before


@pytest.mark.parametrize("method", ["vanilla", "fastv"])
def test_loglikelihood(load: Callable[..., Any], documents: list[Document], method: str) -> None:
    continuations = [" yes", " no", " three options", " two", " helpful"]

    def scores(batch_size: int) -> list[tuple[float, bool]]:
        model = load(method, METHODS[method], batch_size=batch_size)
        model.task_dict = {"quiz": {"test": documents}}
        arguments = zip(documents, continuations, strict=True)
        requests = [
            Instance(
                "loglikelihood",
                (document["question"], text, lambda document: document["images"], index, "quiz", "test"),
                0,
                metadata={"task": "quiz", "doc_id": index, "repeats": 1},
            )
            for index, (document, text) in enumerate(arguments)
        ]
        return list(model.loglikelihood(requests))

    alone, batched = scores(1), scores(4)
    assert [score for score, _ in batched] == pytest.approx([score for score, _ in alone], abs=1e-3)
    if method == "vanilla":
        model = load()
        for document, text, (score, greedy) in zip(documents, continuations, alone, strict=True):
            images = document["images"]
            marks = " ".join(["<image>"] * len(images)) + "\n" if images else ""
            prompt = f"{VICUNA_SYSTEM} USER: {marks}{document['question']} ASSISTANT:"
            whole = model.processor(text=prompt + text, images=images or None, return_tensors="pt")
            start = model.processor(text=prompt, images=images or None, return_tensors="pt")["input_ids"].shape[1]
            with torch.no_grad():
                steps = model.model(**whole).logits[0, start - 1 : -1].log_softmax(-1)
            wanted = whole["input_ids"][0, start:]
            assert score == pytest.approx(float(steps.gather(1, wanted[:, None]).sum()), abs=1e-3)
            assert greedy == bool((steps.argmax(-1) == wanted).all())


def test_greedy_continuation_is_recognised(load: Callable[..., Any]) -> None:
    model = load("fastv", ",budget=20")
    prompt = model.prompt([("user", [Image(Picture.new("RGB", (30, 20))), "Is there a red circle?"])])
    words = {token: index for token, index in model.processor.tokenizer.get_vocab().items() if token[1:].isalpha()}
    words = {token: index for token, index in words.items() if token[0] == "Ġ" and token[1:].isascii()}
    others = torch.ones(len(model.model.lm_head.weight), dtype=torch.bool)
    others[list(words.values())] = False
    model.model.lm_head.weight.data[others] = 0.0  # so that the model's favourite token is a word
    scores = {token: model.score(model.encode([replace(prompt, continuation=token[1:])]))[0] for token in words}
    greedy = [token for token, (_, is_greedy) in scores.items() if is_greedy]
    assert greedy == [max(scores, key=lambda token: scores[token][0])]
    assert model.answer(model.encode([prompt]), Generation.read({"max_new_tokens": 1}))[0].text == greedy[0][1:]


def test_one_loaded_model_serves_run_after_run(load: Callable[..., Any], documents: list[Document]) -> None:
    model = load("fastv", ",budget=20")
    first = ask(model, documents)
    model.clean()
    assert model.audit()["requests"] == len(documents)
    assert set(model.audit()["schedule"].split(" | ")) == {"1:15", "1:30", "no image"}
    assert ask(model, documents) == first
    model.clean()
    assert model.audit()["requests"] == len(documents)
    fastv = model.method
    ask(model, documents)  # a run that never ends
    assert model.tally.requests == len(documents)
    model.method = load().method
    assert model.tally.requests == 0
    assert ask(model, documents) == ask(load(), documents) != first
    assert "Vanilla" in repr(model)
    model.method = fastv
    assert ask(model, documents) == first


def test_the_audit_counts_tokens_not_padding(load: Callable[..., Any], documents: list[Document]) -> None:
    model = load("pdrop", ",schedule=0:10/2:4")
    requests = questions(documents)
    requests.append(
        Instance("generate_until", requests[0].args, 0, metadata={**requests[0].metadata, "__padding_only__": True})
    )
    model.task_dict = {"quiz": {"test": documents}}
    assert len(model.generate_until(requests)) == len(requests)
    audit, tokenizer = model.audit(), model.processor.tokenizer
    prompts = [model.prompt([("user", [document["question"]])]).text for document in documents]
    # An image adds "\n" to the text, and two images the space between them.
    text = sum(len(tokenizer(prompt)["input_ids"]) for prompt in prompts) + 4 + 1
    assert audit["requests"] == 5
    assert audit["vision_tokens"] == 5 * 36 / 5
    assert audit["text_tokens"] == pytest.approx(text / 5, abs=1)
    # Two images share one schedule: 10 and 4 of their 72 tokens; the text-only request has none.
    entering = [[36, 10, 10, 4]] * 3 + [[72, 10, 10, 4], [0] * 4]
    assert audit["entering"] == pytest.approx(np.mean(entering))
    assert audit["leaving"] == pytest.approx(np.mean([[*row[1:], row[-1]] for row in entering]))


def test_the_name_in_the_response_cache_tells_runs_apart(load: Callable[..., Any], checkpoint: Path) -> None:
    names = [
        repr(load(*arguments)) for arguments in [("fastv", ",budget=20"), ("fastv", ",budget=21"), ("vanilla", "")]
    ]
    names.append(repr(load("fastv", ",budget=20,conv=hf,image_aspect_ratio=crop")))
    assert len(set(names)) == 4
    assert repr(load("fastv", ",budget=20")) == names[0]
    assert str(checkpoint) in names[0]


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("fastv", ",budgte=20", "unknown model argument 'budgte': did you mean 'budget'.*image_aspect_ratio"),
        ("vanilla", ",budget=20", "unknown model argument 'budget'"),
        ("fastv", ",budget=many", "model argument budget='many'"),
        ("fastv", ",budget=20,conv=llama", "known are vicuna_v1, hf"),
        ("fastv", ",budget=20,image_aspect_ratio=anyres", "known are pad, crop"),
        ("fastv", ",schedule=9:3", "the model has 4 layers"),
        ("fastv", ",budget=true", "budget=True: FastV takes a number"),
        ("fastv", ",budget=20,k=1.5", "k=1.5: FastV takes a whole number"),
        ("fastv", ",budget=20,max_batch_size=true", "max_batch_size=True: a whole number, at least 1"),
        ("fastv", ",budget=20,max_batch_size=2.5", "max_batch_size=2.5: a whole number"),
        ("vanilla", ",dtype=fp16", "dtype=fp16: use auto .*float16 or bfloat16"),
        ("vanilla", ",device=cuda:9", "device=cuda:9: this machine has [0-9] of them; leave device out or use cpu"),
        ("vanilla", ",device=gpu", "device=gpu is none that torch knows: use cpu, or cuda"),
        ("vanilla", ",revision=v1", "revision=v1 means nothing for the folder .*: leave it out"),
        ("vanilla", ",pretrained=", "pretrained is empty: name a checkpoint on the hub, or its folder"),
    ],
)
def test_wrong_arguments_say_what_is_right(load: Callable[..., Any], method: str, arguments: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(method, arguments)


def test_arguments_as_lmms_eval_reads_them(load: Callable[..., Any]) -> None:
    model = load("fastv", ",budget=20,k=2.0,layers=None,attn_implementation='eager',revision=\"main\"")
    assert model.method == type(model.method)(budget=20, k=2)
    assert model.model.config._attn_implementation == "eager"
    assert load("fastv", ",budget=20,max_batch_size=3").batch_size == 3
    with pytest.raises(ValueError, match="batch_size=auto"):
        load("fastv", ",budget=20", batch_size="auto")


def test_one_model_over_several_devices_goes_with_one_process(
    load: Callable[..., Any], documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(load(arguments=",device_map=auto"), documents) == ask(load(), documents)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start one process, or leave device_map out"):
        load(arguments=",device_map=auto")


def test_a_failing_request_is_named(load: Callable[..., Any], documents: list[Document]) -> None:
    def broken(document: Document) -> list[dict[str, Any]]:
        if document is documents[3]:
            raise OSError("image file is truncated")
        return to_messages(document)

    model = load()
    model.task_dict = {"quiz": {"test": documents}}
    with pytest.raises(RequestError, match="task quiz, doc_id 3: OSError: image file is truncated") as failure:
        model.generate_until(questions(documents, broken))
    assert isinstance(failure.value.__cause__, OSError)
    with pytest.raises(RequestError, match=r"doc_id 0.*0 images and 1 times .<image>., which stands for one"):
        ask(model, [{"images": [], "question": "What is <image>?"}])
    with pytest.raises(NotImplementedError, match="task quiz asks in several rounds"):
        model.generate_until_multi_round(questions(documents))


def test_images_are_padded_or_cropped(load: Callable[..., Any]) -> None:
    wide = Picture.new("RGB", (48, 24), (255, 0, 0))
    padded, cropped = load(), load(arguments=",image_aspect_ratio=crop")
    pixels = [
        model.processor.image_processor(wide, return_tensors="pt")["pixel_values"][0] for model in (padded, cropped)
    ]
    border = pixels[0][:, 0, 0]
    assert torch.allclose(border, torch.zeros(3), atol=0.02)  # the mean colour, normalised
    assert not torch.allclose(pixels[1][:, 0, 0], border, atol=0.5)
