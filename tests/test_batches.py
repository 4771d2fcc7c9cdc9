"""A batch of left-padded prompts equals its prompts one by one: tokens kept, logits, greedy and beam answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import IMAGE_TOKENS, LAYER_METHODS, METHODS, batch, decoder, llava, prompt
from torch import Tensor

import adaptinfer_eval as ae
from adaptinfer_eval.pruning.prefix import SharedPrefix
from adaptinfer_eval.pruning.trunk import Trunk

ONE_IMAGE = [(5, 1, 7, 1), (3, 1, 12, 2), (9, 1, 4, 3), (5, 1, 7, 4)]
ANY_IMAGES = [(5, 1, 7, 1), (3, 2, 12, 2), (9, 0, 4, 3), (2, 1, 3, 4)]
STEPS = 5


def answers(
    model: Any,
    method: ae.Method,
    inputs: dict[str, Tensor],
    prefix: SharedPrefix | None = None,
    trunk: Trunk | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, ae.Trace]:
    """Generated ids, logits of every step (B, steps, vocabulary), and the trace."""
    inputs = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    with ae.pruned(model, method, prefix=prefix, trunk=trunk) as trace, torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **options,
        )
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, 1), trace


def check_batch_equals_singles(
    model: Any, method: ae.Method, prompts: list[tuple[int, int, int, int]], rounding: float = 1e-4
) -> None:
    """`prompts`: the facts of each, as `prompt` takes them. `rounding`: how far logits may be apart."""
    singles = [prompt(*facts) for facts in prompts]
    together = batch(singles)
    ids, logits, trace = answers(model, method, together)
    for row, single in enumerate(singles):
        padding = together["input_ids"].shape[1] - single["input_ids"].shape[1]
        single_ids, single_logits, single_trace = answers(model, method, single)
        assert trace.entering[row].tolist() == single_trace.entering[0].tolist()
        for layer, kept in single_trace.kept.items():
            mine = trace.kept[layer][row]
            assert (mine[mine >= 0] - padding).tolist() == kept[0].tolist(), f"layer {layer}"
        error = (logits[row] - single_logits[0]).abs().max()
        assert error < rounding, f"row {row}: {error}"
        assert ids[row].tolist() == single_ids[0].tolist()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("prompts", [ONE_IMAGE, ANY_IMAGES], ids=["one image", "0, 1 or 2 images"])
@pytest.mark.parametrize(("name", "options"), METHODS)
def test_batch_equals_single(
    name: str, options: dict[str, Any], prompts: list[tuple[int, int, int, int]], attention: str
) -> None:
    check_batch_equals_singles(llava(attention), ae.get_method(name)(**options), prompts)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize(("name", "options"), LAYER_METHODS)
@torch.no_grad()
def test_a_model_equals_its_decoder_on_the_same_embeddings(
    name: str, options: dict[str, Any], family: str, attention: str
) -> None:
    model, method = llava(attention, family), ae.get_method(name)(**options)
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


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_beam_search_in_a_batch(name: str, options: dict[str, Any]) -> None:
    model, method = llava(), ae.get_method(name)(**options)
    singles = [prompt(*facts) for facts in ANY_IMAGES]
    together, _, _ = answers(model, method, batch(singles), num_beams=3)
    for row, single in enumerate(singles):
        assert together[row].tolist() == answers(model, method, single, num_beams=3)[0][0].tolist()


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize(("name", "options"), LAYER_METHODS)
@torch.no_grad()
def test_grouped_queries_equal_repeated_heads(name: str, options: dict[str, Any], family: str) -> None:
    """A decoder whose query heads share key heads does what it does with every key head written out."""
    window: dict[str, Any] = {"sliding_window": None} if family == "mistral" else {}
    grouped, full = decoder(family, **window), decoder(family, **window, num_key_value_heads=4)
    weights = grouped.state_dict()
    for key, value in weights.items():
        if "k_proj" in key or "v_proj" in key:
            heads = value.view(2, 8, *value.shape[1:]).repeat_interleave(2, 0)
            weights[key] = heads.reshape(32, *value.shape[1:])
    full.load_state_dict(weights)
    embeds = torch.randn(2, 90, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 90, dtype=torch.bool)
    mask[:, 10 : 10 + IMAGE_TOKENS] = True
    kept, logits = [], []
    for model in (grouped, full):
        with ae.pruned(model, ae.get_method(name)(**options), vision_mask=mask) as trace:
            logits.append(model(inputs_embeds=embeds).logits[:, -1])
        kept.append({layer: ids.tolist() for layer, ids in trace.kept.items()})
    assert kept[0] == kept[1]
    assert len(kept[0]) > 0
    assert torch.allclose(logits[0], logits[1], atol=1e-5)


@pytest.mark.parametrize(("name", "options"), [("tome", {"budget": 40}), ("downsample", {"budget": 20})])
def test_before_the_decoder_equals_a_shorter_prompt(name: str, options: dict[str, Any]) -> None:
    """As if the processor had written fewer placeholders and the tower had given fewer features."""
    model, method = llava(), ae.get_method(name)(**options)
    inputs = prompt(5, 1, 7, 1)
    ids, logits, trace = answers(model, method, inputs)
    with torch.no_grad(), ae.pruned(model.model.vision_tower, method) if name == "tome" else torch.no_grad():
        hidden = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][:, 1:]
    with torch.no_grad():
        features = model.model.multi_modal_projector(hidden)[0]
        chosen = [column - 5 for column in trace.kept[-1][0].tolist()]
        embeds = model.get_input_embeddings()(inputs["input_ids"])[0]
        start = 5
        short = torch.cat([embeds[:start], features[chosen], embeds[start + IMAGE_TOKENS :]])[None]
        want = model.generate(
            inputs_embeds=short, max_new_tokens=STEPS, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    assert trace.entering.tolist() == [[options["budget"]] * 8]
    assert torch.allclose(torch.stack(want.logits, 1), logits, atol=1e-4)
    assert want.sequences.tolist() == ids.tolist()


@pytest.mark.parametrize("name", ["adaptinfer", "fastv", "pdrop", "sparsevlm", "random"])
@torch.no_grad()
def test_a_budget_is_solved_for_each_prompt_of_a_bare_decoder(name: str) -> None:
    model, method = decoder("llama"), ae.get_method(name)(budget=24)
    embeds = torch.randn(2, 150, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 150, dtype=torch.bool)
    mask[0, 5:133] = True
    mask[1, 5:69] = True
    with ae.pruned(model, method, vision_mask=mask) as trace:
        logits = model(inputs_embeds=embeds).logits[:, -1]
    for row in range(2):
        with ae.pruned(model, method, vision_mask=mask[row : row + 1]) as single:
            alone = model(inputs_embeds=embeds[row : row + 1]).logits[0, -1]
        assert trace.entering[row].tolist() == single.entering[0].tolist()
        assert torch.allclose(logits[row], alone, atol=1e-4)


@pytest.mark.parametrize("window", [40, 4096])
@torch.no_grad()
def test_scores_see_what_a_sliding_window_sees(window: int) -> None:
    """FastV keeps what the layer's own eager attention, window and all, ranks highest."""
    model = decoder("mistral", "eager", sliding_window=window)
    embeds = torch.randn(1, 90, 32, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(1, 90, dtype=torch.bool)
    mask[:, 10 : 10 + IMAGE_TOKENS] = True
    weights = model(inputs_embeds=embeds, output_attentions=True).attentions[1][0, :, -1].mean(0)
    want = weights[10 : 10 + IMAGE_TOKENS].topk(9).indices.sort().values + 10
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        with ae.pruned(model, ae.get_method("fastv")(schedule="1:9"), vision_mask=mask) as trace:
            model(inputs_embeds=embeds)
        assert trace.kept[1][0].tolist() == want.tolist()
