"""What a user may rely on around a `pruned` block: restored model, refused misuse, caches, dispatch."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from tiny_models import (
    CASES,
    IMAGE_TOKENS,
    LAYER_METHODS,
    METHODS,
    MODELS,
    batch,
    decoder,
    llava,
    prompt,
    takes_features,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationConfig, StaticCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import adaptinfer_eval as ae
from adaptinfer_eval.pruning.sequence import choose, first_segment, shorten

ADAPTINFER = {"schedule": "1:30,3:12,5:4"}


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize(("family", "name", "options"), CASES)
@torch.no_grad()
def test_model_is_the_same_after_the_block_and_after_an_error(family: str, name: str, options: dict[str, Any]) -> None:
    model, inputs = MODELS[family](), batch([prompt(5, 1, 7, 1), prompt(3, 2, 4, 2)])
    before = model(**inputs).logits
    facts, functions = (hooks(model), set(vars(model))), dict(ALL_ATTENTION_FUNCTIONS)
    with ae.pruned(model, ae.get_method(name)(**options)):
        pruned = model(**inputs).logits
        model.generate(**inputs, max_new_tokens=3)
    assert name == "vanilla" or not torch.equal(pruned[:, -1], before[:, -1])
    assert torch.equal(model(**inputs).logits, before)

    def run_and_fail() -> None:
        with ae.pruned(model, ae.get_method(name)(**options)):
            model(**inputs)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_and_fail()
    assert torch.equal(model(**inputs).logits, before)
    assert (hooks(model), set(vars(model))) == facts
    assert dict(ALL_ATTENTION_FUNCTIONS) == functions


@pytest.mark.parametrize("images", [[1], [1, 2, 0]], ids=["one prompt", "1, 2, 0 images"])
@pytest.mark.parametrize(("family", "name", "options"), CASES)
@torch.no_grad()
def test_cache_lengths_equal_the_trace(family: str, name: str, options: dict[str, Any], images: list[int]) -> None:
    model, prompts = MODELS[family](), [prompt(5 + count, count, 7, 1) for count in images]
    inputs = batch(prompts)
    text = inputs["attention_mask"].sum(1) - (inputs["input_ids"] == model.config.image_token_id).sum(1)
    with ae.pruned(model, ae.get_method(name)(**options)) as trace:
        cache = model(**inputs, use_cache=True).past_key_values
        mask = inputs["attention_mask"]
        for step in range(3):
            cached = [cache.get_seq_length(layer) for layer in range(8)]
            if len(prompts) == 1:
                assert cached == (trace.entering[0] + text + step).tolist()
            else:  # as long as its fullest sample; before anything is pruned, as the padded batch
                longest = (trace.entering + text[:, None]).amax(0) + step
                whole = mask.shape[1]
                assert all(n in (want, whole) for n, want in zip(cached, longest.tolist(), strict=True)), cached
                assert cached[-1] == (longest[-1] if trace.kept else whole)
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            token = torch.full((len(prompts), 1), 7 + step)
            model(input_ids=token, attention_mask=mask, past_key_values=cache, use_cache=True)


@pytest.mark.parametrize(("family", "name", "options"), CASES)
@torch.no_grad()
def test_generate_equals_a_loop(family: str, name: str, options: dict[str, Any]) -> None:
    model, inputs = MODELS[family](), prompt(5, 1, 7, 1)
    with ae.pruned(model, ae.get_method(name)(**options)):
        generated = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        out = model(**inputs, use_cache=True)
        tokens = [int(out.logits[0, -1].argmax())]
        for _ in range(4):
            out = model(input_ids=torch.tensor([tokens[-1:]]), past_key_values=out.past_key_values, use_cache=True)
            tokens.append(int(out.logits[0, -1].argmax()))
    assert generated[0, inputs["input_ids"].shape[1] :].tolist() == tokens


@pytest.mark.parametrize(("family", "name", "options"), CASES)
@torch.no_grad()
def test_text_only_prompts_are_left_alone(family: str, name: str, options: dict[str, Any]) -> None:
    model, inputs = MODELS[family](), batch([prompt(5, 0, 7, 1), prompt(2, 0, 3, 2)])
    want = model.generate(**inputs, max_new_tokens=4)
    with ae.pruned(model, ae.get_method(name)(**options)) as trace:
        assert torch.equal(model.generate(**inputs, max_new_tokens=4), want)
    assert not trace.entering.any()


@pytest.mark.parametrize("where", ["cpu", "disk", "split"])
@pytest.mark.parametrize(("name", "options"), METHODS)
@torch.no_grad()
def test_device_map(name: str, options: dict[str, Any], where: str, tmp_path: Path) -> None:
    """Weights that live elsewhere between the calls of their layer, as with device_map="auto"."""
    model, inputs, method = llava(), batch([prompt(5, 1, 7, 1), prompt(3, 1, 9, 2)]), ae.get_method(name)(**options)
    with ae.pruned(model, method):
        want = model(**inputs).logits[:, -1]
    if where == "cpu":
        cpu_offload(model, torch.device("cpu"))
    elif where == "disk":
        disk_offload(model, str(tmp_path), torch.device("cpu"))
    else:
        decoder_layers = {f"model.language_model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(8)}
        others = ("vision_tower", "multi_modal_projector", "language_model.embed_tokens", "language_model.norm")
        device_map = {**{f"model.{part}": "cpu" for part in others}, "lm_head": "cpu", **decoder_layers}
        device_map["model.language_model.rotary_emb"] = "cpu"
        dispatch_model(model, device_map, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    with ae.pruned(model, method):
        assert torch.equal(model(**inputs).logits[:, -1], want)


@pytest.mark.parametrize(("name", "options"), LAYER_METHODS)
@torch.no_grad()
def test_nothing_forces_eager_attention_or_runs_a_layer_twice(name: str, options: dict[str, Any]) -> None:
    model, inputs, calls = llava(), prompt(5, 1, 7, 1), [0] * 8
    for index, layer in enumerate(model.model.language_model.layers):
        layer.register_forward_hook(lambda *_, index=index: calls.__setitem__(index, calls[index] + 1))
    with ae.pruned(model, ae.get_method(name)(**options)):
        assert model.config.text_config._attn_implementation == "sdpa"
        model(**inputs)
    assert calls == [1] * 8


class NoSync(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what would make the host wait for a device (on the CPU, `tolist` of the counts is not seen)."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.copies = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        frames = [frame.f_code.co_filename for frame, _ in traceback.walk_stack(sys._getframe(1))]
        ours = any("adaptinfer_eval" in path or "baselines" in path for path in frames[:8])
        if ours and name in ("_local_scalar_dense", "nonzero", "masked_select"):
            self.copies += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("family", "name", "options"), CASES)
@torch.no_grad()
def test_the_host_does_not_wait_for_the_device(family: str, name: str, options: dict[str, Any]) -> None:
    model, inputs = MODELS[family](), batch([prompt(5, 1, 7, 1), prompt(3, 1, 9, 2)])
    method = ae.get_method(name)(**options)
    # ToMe checks once whose features it got; whose count depends on the image is asked for each.
    waits = 2 if isinstance(method, ae.ImageMethod) and method.counts_itself else name == "tome"
    with ae.pruned(model, method):
        with NoSync() as mode:
            out = model(**inputs, use_cache=True)
        assert mode.copies == waits
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        with NoSync() as mode:
            model(input_ids=torch.tensor([[3], [4]]), attention_mask=mask, past_key_values=out.past_key_values)
        assert mode.copies == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), METHODS)
@torch.no_grad()
def test_half_precision(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    model, inputs = llava().to(dtype), batch([prompt(5, 1, 7, 1), prompt(3, 2, 9, 2)])
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    with ae.pruned(model, ae.get_method(name)(**options)):
        out = model.generate(**inputs, max_new_tokens=3, output_logits=True, return_dict_in_generate=True)
    assert torch.stack(out.logits).isfinite().all()


def test_a_stage_on_another_device_than_the_prompt() -> None:
    """As with device_map over two accelerators: the sequence moves to the device of the hidden states."""
    with FakeTensorMode():
        mask = torch.zeros(2, 9, dtype=torch.bool, device="cuda:0")
        segment = first_segment(mask, mask, [9, 9], [4, 4])
        hidden, score = torch.zeros(2, 9, 16, device="cuda:1"), torch.zeros(2, 4, device="cuda:1")
        segment = segment.to(hidden.device)
        after, hidden, _ = shorten(segment, hidden, choose(score, segment, [2, 2]), [2, 2], [3, 3])
        assert hidden.device == after.ids.device == after.kept().device == torch.device("cuda:1")


@torch.no_grad()
def test_random_is_seeded() -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    kept = []
    for seed in (0, 0, 1):
        with ae.pruned(model, ae.get_method("random")(schedule="1:20", seed=seed)) as trace:
            model(**inputs)
        kept.append(trace.kept[1].tolist())
    assert kept[0] == kept[1] != kept[2]


configuration: Any = GenerationConfig


def generate(**options: Any) -> None:
    model = llava()
    if options.pop("train", False):
        model.train()
    if options.pop("static", False):
        options["past_key_values"] = StaticCache(config=model.config.text_config, max_cache_len=100)
    if options.pop("filled", False):
        options["past_key_values"] = model(**prompt(5, 1, 7, 1), use_cache=True).past_key_values
    model.generation_config.update(**options.pop("checkpoint", {}))
    with ae.pruned(model, ae.get_method("adaptinfer")(**ADAPTINFER)):
        model.generate(**prompt(5, 1, 7, 1), max_new_tokens=3, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": True}, "eval"),
        ({"static": True}, "static cache"),
        ({"cache_implementation": "static"}, "static cache"),
        ({"prefill_chunk_size": 16}, "chunked prefill"),
        ({"prompt_lookup_num_tokens": 2}, "assisted decoding"),
        ({"assistant_model": decoder("llama")}, "assisted decoding"),
        ({"filled": True}, "holds a prompt already"),
        ({"use_cache": False}, "without a cache"),
        ({"generation_config": configuration(use_cache=False)}, "without a cache"),
        ({"checkpoint": {"use_cache": False}}, "without a cache"),
        ({"checkpoint": {"use_cache": False}, "generation_config": configuration(num_beams=2)}, "without a cache"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive search"),
        ({"dola_layers": "low"}, "dola generation"),
        ({"custom_generate": lambda *_: None}, "custom_generate"),
    ],
)
def test_unsupported_uses_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(**options)


@torch.no_grad()
def test_a_prompt_does_not_come_back_with_its_answer() -> None:
    model, (embeds, mask) = decoder("llama"), embeds_and_mask()
    with ae.pruned(model, ae.get_method("adaptinfer")(**ADAPTINFER), vision_mask=mask):
        model(inputs_embeds=embeds, use_cache=False)
        with pytest.raises(ValueError, match="with its answer so far"):
            model(inputs_embeds=torch.cat([embeds, embeds[:, -1:]], 1), use_cache=False)


def embeds_and_mask() -> tuple[Tensor, Tensor]:
    mask = torch.zeros(1, 90, dtype=torch.bool)
    mask[:, 10 : 10 + IMAGE_TOKENS] = True
    return torch.randn(1, 90, 32), mask


@pytest.mark.parametrize(
    ("model", "method", "message"),
    [
        ("llama", ("adaptinfer", ADAPTINFER), "pass vision_mask="),
        ("llama", ("tome", {"budget": 9}), "works inside a CLIP vision tower"),
        ("llama with mask", ("fastv", {"schedule": "7:3"}), "the model has 8 layers"),
        ("llama with mask", ("fastv", {"budget": 4}), "schedule='0:4' can"),
        ("clip", ("fastv", {"schedule": "1:3"}), "use it on the whole model"),
        ("clip", ("tome", {"budget": 3}), "a budget of at least 8"),
        ("gpt2", ("adaptinfer", ADAPTINFER), "supported are llava"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(model: str, method: tuple[str, dict[str, Any]], message: str) -> None:
    family = model.split()[0]
    if family == "gpt2":
        auto: Any = AutoModelForCausalLM
        built = auto.from_config(AutoConfig.for_model("gpt2", n_layer=2, n_embd=32, n_head=2))
    else:
        built = llava().model.vision_tower if family == "clip" else decoder(family)
    mask = embeds_and_mask()[1] if "mask" in model else None
    attached = ae.pruned(built.eval(), ae.get_method(method[0])(**method[1]), vision_mask=mask)
    with pytest.raises(ValueError, match=message):
        attached.__enter__()


@torch.no_grad()
def test_wrong_prompts_are_refused() -> None:
    model, (embeds, mask) = decoder("llama"), embeds_and_mask()
    method = ae.get_method("adaptinfer")(**ADAPTINFER)
    with ae.pruned(model, method, vision_mask=mask.repeat(2, 1)), pytest.raises(ValueError, match="must agree"):
        model(inputs_embeds=embeds)
    padded_right = torch.ones(1, 90, dtype=torch.long)
    padded_right[:, -3:] = 0
    with ae.pruned(model, method, vision_mask=mask), pytest.raises(ValueError, match="pad on the left"):
        model(inputs_embeds=embeds, attention_mask=padded_right)
    with ae.pruned(model, method, vision_mask=mask), pytest.raises(ValueError, match="2-D attention_mask"):
        model(inputs_embeds=embeds, attention_mask=torch.ones(1, 1, 90, 90))
    ends_with_image = mask.clone()
    ends_with_image[:, 10:] = True
    with ae.pruned(model, method, vision_mask=ends_with_image), pytest.raises(ValueError, match="after the image"):
        model(inputs_embeds=embeds)
    whole = llava()
    with ae.pruned(whole, method), pytest.raises(ValueError, match="pass vision_mask="):
        whole(inputs_embeds=embeds)


@torch.no_grad()
def test_only_one_prefill_per_cache_and_only_inside_the_block() -> None:
    model, (embeds, mask), cache = decoder("llama"), embeds_and_mask(), DynamicCache()
    method = ae.get_method("adaptinfer")(**ADAPTINFER)
    with ae.pruned(model, method, vision_mask=mask):
        model(inputs_embeds=embeds, past_key_values=cache)
        with pytest.raises(ValueError, match="whole prompt at once"):
            model(input_ids=torch.tensor([[3, 4]]), past_key_values=cache)
    with ae.pruned(model, method, vision_mask=mask), pytest.raises(ValueError, match="not filled inside the block"):
        model(input_ids=torch.tensor([[3]]), past_key_values=cache)


def test_blocks_on_one_model_do_not_nest() -> None:
    model, method = llava(), ae.get_method("adaptinfer")(**ADAPTINFER)
    with ae.pruned(model, method), pytest.raises(ValueError, match="already inside"), ae.pruned(model, method):
        pass


@torch.no_grad()
def test_incomplete_images_are_refused_by_methods_that_drop_tokens_of_an_image() -> None:
    model, inputs = llava(), prompt(5, 0, 7, 1)
    inputs["input_ids"][:, 3:6] = model.config.image_token_id
    with ae.pruned(model, ae.get_method("downsample")(budget=20)), pytest.raises(ValueError, match="whole images"):
        model(**inputs)


@takes_features
@torch.no_grad()
def test_features_of_another_method_are_not_taken_for_tome() -> None:
    model, inputs = llava(), prompt(5, 1, 7, 1)
    features = model.model.get_image_features(pixels := inputs.pop("pixel_values"))
    with ae.pruned(model, ae.get_method("tome")(budget=40)):
        model.generate(**inputs, pixel_values=pixels, max_new_tokens=3)
        with pytest.raises(ValueError, match="pass pixel_values"):
            model.generate(**inputs, mm_encoder_outputs={"image": features}, max_new_tokens=2)
