"""What a vision tower shows is what it computes, image by image, whatever family and kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from families import FAMILIES
from lmms_tiny import load_wrapper, mixed_documents
from tiny_models import batch, internvl, llava, prompt, takes_features
from torch import Tensor
from torch.nn import functional as F

import adaptinfer_eval as ae
from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.pruning import shown
from adaptinfer_eval.pruning.proof import PruningError
from adaptinfer_eval.pruning.shown import column_sums

SEEN = [family for family, row in FAMILIES.items() if "looking" not in row.refuses]


@dataclass(frozen=True, kw_only=True)
class Looks(ae.ImageMethod):
    """Notes what it is shown; keeps the first tokens."""

    asks: ae.Look
    noted: ClassVar[list[ae.Images]] = []

    def look(self, read: int, depth: int) -> ae.Look:
        return self.asks

    def select(self, images: ae.Images, count: int) -> ae.Selection:
        self.noted.append(images)
        return ae.Selection(torch.arange(count).expand(len(images.projected), -1))


def shown_to(method: Looks, model: Any, inputs: Any, **said: Any) -> list[ae.Images]:
    method.noted.clear()
    with torch.no_grad(), ae.pruned(model, method, **said):
        model(**inputs)
    return list(method.noted)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_class_token_s_attention_keys_and_features_are_the_tower_s_own(attention: str) -> None:
    model, inputs = llava(attention), batch([prompt(5, 2, 7, 1), prompt(3, 0, 4, 2), prompt(2, 1, 9, 3)])
    look = ae.Look(attention=(2, 3), received=(1,), keys=(2, 3), queries=(3,))
    (images,) = shown_to(Looks(budget=9, asks=look), model, inputs)
    tower = llava("eager").model.vision_tower
    keys: list[Tensor] = []
    layers = tower.encoder.layers if hasattr(tower, "encoder") else tower.vision_model.encoder.layers
    for layer in layers:
        layer.self_attn.k_proj.register_forward_hook(lambda _, args, output: keys.append(output))
    queries: list[Tensor] = []
    layers[3].self_attn.q_proj.register_forward_hook(lambda _, args, output: queries.append(output))
    with torch.no_grad():
        want = tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
    read = want.hidden_states[-2]
    assert images.grid == (8, 8)
    assert images.cls is not None
    assert torch.allclose(images.hidden, read[:, 1:], atol=1e-5)
    assert torch.allclose(images.cls, read[:, 0], atol=1e-5)
    assert torch.allclose(images.project(images.hidden), images.projected, atol=1e-5)
    for layer in (2, 3):
        assert torch.allclose(images.attention[layer], want.attentions[layer][:, :, 0, 1:], atol=1e-6)
        assert torch.allclose(images.keys[layer], keys[layer].view(3, 65, 2, 8), atol=1e-5)
    assert torch.allclose(images.received[1], want.attentions[1].mean(2)[:, :, 1:], atol=1e-6)
    assert torch.allclose(images.queries[3], queries[0][:, 0].view(3, 2, 8), atol=1e-5)


@torch.no_grad()
def test_a_token_of_several_patches_has_their_mean_attention_and_keys() -> None:
    model, inputs = internvl(), prompt(5, 2, 7, 1)
    (images,) = shown_to(Looks(budget=9, asks=ae.Look(attention=(1,), keys=(1,))), model, inputs)
    tower = internvl("eager").model.vision_tower
    keys: list[Tensor] = []
    tower.encoder.layer[1].attention.k_norm.register_forward_hook(lambda _, args, output: keys.append(output))
    of_class = tower(inputs["pixel_values"], output_attentions=True).attentions[1][:, :, 0, 1:]
    assert torch.allclose(images.attention[1], F.avg_pool2d(of_class.view(2, 2, 16, 16), 2).flatten(2), atol=1e-6)
    of_patches = F.avg_pool2d(keys[0][:, 1:].transpose(1, 2).reshape(2, 16, 16, 16), 2).flatten(2).transpose(1, 2)
    expected = torch.cat([keys[0][:, :1], of_patches], 1)
    assert torch.allclose(images.keys[1].flatten(2), expected, atol=1e-5)
    assert torch.allclose(images.project(images.hidden), images.projected, atol=1e-4)


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    def load(family: str) -> Any:
        folder: Path = FAMILIES[family].save(tmp_path_factory.mktemp(family), FAMILIES[family].layers)
        return load_wrapper(folder, family, "vanilla", "", 4, False, "float64")

    return load


def encoded(wrapper: Any, documents: Sequence[dict[str, Any]]) -> Any:
    asked = [wrapper.prompt([("user", [*map(Image, d["images"]), d["question"]])]) for d in documents]
    inputs = wrapper.encode(asked).inputs.to(wrapper.model.dtype)
    return {name: value for name, value in inputs.items() if value is not None}


@pytest.mark.parametrize("family", SEEN)
@torch.no_grad()
def test_tokens_are_made_of_what_is_shown(load: Callable[[str], Any], family: str) -> None:
    """The projector makes of `hidden` what enters the decoder; attention is shared out among all patches."""
    wrapper = load(family)
    tower, documents = wrapper.anatomy.tower, FAMILIES[family].asked(mixed_documents())
    layers = (tower.read - 1, tower.read)
    method = Looks(budget=0.5, asks=ae.Look(attention=layers, received=layers, keys=layers))
    seen = shown_to(method, wrapper.model, encoded(wrapper, documents))
    assert sum(len(images.projected) for images in seen) >= sum(len(document["images"]) for document in documents)
    for images in seen:
        assert images.grid is not None
        rows, columns = images.grid
        assert images.tokens == rows * columns
        assert torch.allclose(tower.project(images.hidden.double()), images.projected, atol=1e-4, rtol=1e-4)
        for layer in layers:
            every = images.received[layer].sum(-1) * tower.side**2
            assert bool((every < 1).all()) if tower.class_tokens else torch.allclose(every, torch.ones(()), atol=1e-5)
            assert images.keys[layer].shape[:2] == (len(images.projected), images.tokens + tower.class_tokens)
            if not tower.class_tokens:
                assert torch.equal(images.attention[layer], images.received[layer])


def test_column_sums_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = torch.randn(2, 3, 50, 8), torch.randn(2, 3, 50, 8)
    seen = torch.rand(1, 1, 50, 50) < 0.5
    whole = column_sums(query, key, seen, {"scaling": 0.3})
    logits = (query @ key.transpose(2, 3) * 0.3).masked_fill(~seen, -1e30)
    assert torch.allclose(whole, logits.softmax(-1).sum(2), atol=1e-5)
    monkeypatch.setattr(shown, "_LOGITS", 2 * 3 * 50 * 7)
    assert torch.allclose(column_sums(query, key, seen, {"scaling": 0.3}), whole, atol=1e-5)


def test_text_and_questions_are_those_of_each_image_s_prompt() -> None:
    model, inputs = llava(), batch([prompt(5, 2, 7, 1), prompt(3, 0, 4, 2), prompt(2, 1, 3, 3)])
    method = Looks(budget=9, asks=ae.Look(hidden=False, text=True, question=True))
    (images,) = shown_to(method, model, inputs, questions=["a", "b", "c"])
    assert images.questions == ["a", "a", "c"]
    assert images.text is not None
    assert images.text_mask is not None
    assert images.text_mask.sum(1).tolist() == [8, 8, 4]  # a token behind each image, then the text
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    assert torch.equal(images.text[2][images.text_mask[2]], embeds[2, -4:])
    assert images.hidden.shape == (3, 64, 0)
    with pytest.raises(ValueError, match="reads the question, which is not known: pass questions="):
        shown_to(method, model, inputs)


# What does not go as planned -----------------------------------------------------------------------------------------


@takes_features
@torch.no_grad()
def test_features_that_were_not_encoded_in_the_block_are_refused() -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    features = model.model.get_image_features(inputs.pop("pixel_values"))
    given = {**inputs, "mm_encoder_outputs": {"image": features}}
    with ae.pruned(model, ae.get_method("divprune")(budget=9)) as trace:  # looks at what enters the decoder alone
        model.generate(**given, max_new_tokens=2)
    assert set(trace.entering[0].tolist()) == {9}
    given["mm_encoder_outputs"] = {"image": model.model.get_image_features(prompt(5, 1, 7, 1)["pixel_values"])}
    with (
        ae.pruned(model, ae.get_method("fastervlm")(budget=9)),
        pytest.raises(ValueError, match="not encoded inside the block: pass pixel_values"),
    ):
        model.generate(**given, max_new_tokens=2)


@torch.no_grad()
def test_images_that_another_prompt_left_behind_are_not_taken() -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    with ae.pruned(model, ae.get_method("fastervlm")(budget=9)) as trace:
        model(**inputs)
        expected = trace.kept[-1].clone()
        model.model.get_image_features(prompt(5, 1, 7, 2)["pixel_values"])
        model(**inputs)
        assert torch.equal(trace.kept[-1], expected)
        model.model.get_image_features(prompt(5, 1, 7, 2)["pixel_values"])
        model.generate(**inputs, max_new_tokens=2)
        assert torch.equal(trace.kept[-1], expected)


@torch.no_grad()
def test_a_tower_whose_attention_is_not_seen_is_an_error() -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    config = model.model.vision_tower.config
    with ae.pruned(model, ae.get_method("fastervlm")(budget=9)):
        config._attn_implementation = "eager"  # watched is sdpa
        with pytest.raises(PruningError, match="was to show layer 2's attention, which was not seen"):
            model(**inputs)
    config._attn_implementation = "sdpa"


@pytest.mark.parametrize(
    ("look", "message"),
    [
        (ae.Look(attention=(4,)), "has layers 0 to 3, and no layer 4"),
        (ae.Look(keys=(-1,)), "has layers 0 to 3, and no layer -1"),
    ],
)
def test_layers_that_there_are_not_are_refused(look: ae.Look, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ae.pruned(llava(), Looks(budget=9, asks=look)).__enter__()


@torch.no_grad()
def test_scores_that_are_no_numbers_are_an_error() -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    inputs["pixel_values"][0, 0, 0, 0] = torch.nan
    with (
        pytest.raises(PruningError, match=r"FasterVLM: scores .* are not finite"),
        ae.pruned(model, ae.get_method("fastervlm")(budget=9)),
    ):
        model(**inputs)


# What a method may answer --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Makes(ae.ImageMethod):
    """A row of its own, the last token, another row of its own, the first token changed."""

    changes: bool = False

    def look(self, read: int, depth: int) -> ae.Look:
        return ae.Look(attention=(read,))

    def select(self, images: ae.Images, count: int) -> ae.Selection:
        last = images.tokens - 1
        index = torch.tensor([last + 1, last, last + 2, 0]).expand(len(images.projected), -1)
        assert images.cls is not None or not self.changes
        made = images.project(torch.stack([images.hidden.mean(1), images.hidden[:, 0]], 1))
        if not self.changes:
            return ae.Selection(index, made)
        own = images.projected[:, [last, 0]] * 2
        return ae.Selection(index, rows=torch.stack([made[:, 0], own[:, 0], made[:, 1], own[:, 1]], 1))


def entering(model: Any, method: ae.Method, inputs: Any) -> tuple[Tensor, ae.Trace]:
    seen: list[Tensor] = []
    with torch.no_grad(), ae.pruned(model, method) as trace:
        hook = model.model.language_model.layers[0].register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        model(**inputs)
        hook.remove()
    return seen[0], trace


@pytest.mark.parametrize("changes", [False, True])
@torch.no_grad()
def test_rows_go_in_as_they_are_answered_and_made_ones_are_numbered_on(changes: bool) -> None:
    """Two images, none, and one, left-padded."""
    model, inputs = llava(), batch([prompt(5, 2, 7, 1), prompt(3, 0, 4, 2), prompt(2, 1, 9, 3)])
    embeds, trace = entering(model, Makes(budget=4, changes=changes), inputs)
    length, start = inputs["input_ids"].shape[1], inputs["input_ids"].shape[1] - (2 + 64 + 1 + 9)
    first, second = 5, 5 + 64 + 1
    assert trace.kept[-1].tolist() == [
        [length, first + 63, length + 1, first, length + 2, second + 63, length + 3, second],
        [-1] * 8,
        [length, start + 2 + 63, length + 1, start + 2, -1, -1, -1, -1],
    ]
    hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1:]
    project, words = model.model.multi_modal_projector, model.get_input_embeddings()(inputs["input_ids"])
    made = project(torch.stack([hidden.mean(1), hidden[:, 0]], 1))
    own = project(hidden)[:, [63, 0]] * (2 if changes else 1)
    rows = torch.stack([made[:, 0], own[:, 0], made[:, 1], own[:, 1]], 1)
    whole = torch.cat([words[0, :5], rows[0], words[0, 69:70], rows[1], words[0, second + 64 :]])
    assert torch.allclose(embeds[0], whole, atol=1e-5)
    alone = torch.cat([words[2, start : start + 2], rows[2], words[2, start + 66 :]])
    assert torch.allclose(embeds[2, -len(alone) :], alone, atol=1e-5)
    assert trace.schedules == ["before:8", "no image", "before:4"]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_rows_of_its_own_are_refused_where_they_have_no_place(load: Callable[[str], Any], family: str) -> None:
    wrapper = load(family)
    inputs = encoded(wrapper, mixed_documents()[:1])
    with (
        pytest.raises(ValueError, match=r"Makes puts in tokens of its own, and .* such a token has no place"),
        torch.no_grad(),
        ae.pruned(wrapper.model, Makes(budget=4)),
    ):
        wrapper.model(**inputs)

    class Says(Makes):
        makes = True

    with pytest.raises(ValueError, match=r"Says puts in tokens of its own, and .* such a token has no place"):
        ae.pruned(wrapper.model, Says(budget=4)).__enter__()


@dataclass(frozen=True, kw_only=True)
class Answers(ae.ImageMethod):
    """Answers something given."""

    answer: Any = None
    counts: bool = False

    @property
    def counts_itself(self) -> bool:
        return self.counts

    def select(self, images: ae.Images, count: int) -> ae.Selection:
        return self.answer(images, count)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda i, n: ae.Selection(torch.zeros(1, n + 1, dtype=torch.long)), ValueError, "not 9 tokens"),
        (lambda i, n: ae.Selection(torch.zeros(1, n)), ValueError, r"chooses torch.float32 \(1, 9\), not 9 tokens"),
        (lambda i, n: ae.Selection(torch.arange(n)[None], i.projected[..., :3]), ValueError, "not of width 32"),
        (lambda i, n: ae.Selection(torch.arange(n)[None], rows=i.projected), ValueError, "rows for"),
        (lambda i, n: ae.Selection(torch.arange(60, 60 + n)[None]), PruningError, "beyond the 64 that there are"),
    ],
)
def test_answers_that_are_none_are_errors(answer: Any, error: type[Exception], message: str) -> None:
    model = llava()
    with torch.no_grad(), pytest.raises(error, match=message), ae.pruned(model, Answers(budget=9, answer=answer)):
        model(**prompt(5, 1, 7, 1))


def test_a_method_that_counts_itself_is_asked_image_by_image() -> None:
    def answer(images: ae.Images, count: int) -> ae.Selection:
        assert (len(images.projected), count) == (1, 0)
        own = 3 + int(images.projected[0, 0, 0] > 0) + int(images.projected[0, 1, 1] > 0)
        return ae.Selection(torch.arange(own)[None])

    model, prompts = llava(), [prompt(5, 2, 7, 1), prompt(3, 0, 4, 2), prompt(2, 1, 9, 3)]
    method = Answers(budget=9, answer=answer, counts=True)
    _, together = entering(model, method, batch(prompts))
    alone = [entering(model, method, inputs)[1].entering[0, 0].item() for inputs in prompts]
    assert together.entering[:, 0].tolist() == alone
    assert len(set(alone)) == 3
