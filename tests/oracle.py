"""A pruned answer without engine and cache: the whole sequence goes through the unmodified model, token by token anew.

What a stage drops stays where it is and is hidden from every later layer's attention, which amounts to the same. The
attention is written out here, and so are the positions of tokens that are numbered anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from adaptinfer_eval.backbones import anatomy_of

Kept = Mapping[int, Sequence[int]]
"""After which layers which columns of vision tokens go on."""


def _written_out(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **more: Any
) -> tuple[Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    logits = query @ key.transpose(2, 3) * scaling
    if more.get("softcap"):
        logits = torch.tanh(logits / more["softcap"]) * more["softcap"]
    if attention_mask is not None:
        logits = logits + attention_mask[..., : key.shape[2]]
    if (hidden := getattr(module, "hidden_from", None)) is not None:
        logits[..., hidden] = torch.finfo(logits.dtype).min
    return (logits.softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("written_out", _written_out)
AttentionMaskInterface.register("written_out", eager_mask)


def last_logits(model: Any, inputs: Mapping[str, Tensor], kept: Kept, renumbers: bool, prompt: int) -> Tensor:
    """Logits behind the last token of one sequence, `inputs` of a model that is set to "written_out".

    `prompt`: how many of its tokens are the prompt, which alone is pruned.
    """
    anatomy = anatomy_of(model)
    text: Any = anatomy.text
    rotary, layers = text.rotary_emb, text.layers
    vision = anatomy.is_vision(inputs["input_ids"])[0].nonzero()[:, 0].tolist()
    calls: list[tuple[Any, dict[str, Any], Any]] = []
    gone: list[int] = []
    with ExitStack() as stack:

        def note(_module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            calls.append((args, kwargs, output))

        stack.callback(rotary.register_forward_hook(note, with_kwargs=True).remove)
        for number, layer in enumerate(layers):
            if number - 1 in kept:
                gone = [column for column in vision if column not in kept[number - 1]]
            layer.self_attn.hidden_from = gone or None
            if renumbers and gone:

                def moved(_module: Any, args: Any, kwargs: dict[str, Any], gone: list[int] = gone) -> Any:
                    ours = kwargs["position_embeddings"][0]
                    args_of, kwargs_of = next((a, k) for a, k, out in calls if out[0] is ours)
                    named = {**dict(zip(("x", "position_ids", "layer_type"), args_of, strict=False)), **kwargs_of}
                    named["position_ids"] = anew(named["position_ids"], gone, prompt)
                    return args, {**kwargs, "position_embeddings": rotary.forward(**named)}

                stack.callback(layer.register_forward_pre_hook(moved, with_kwargs=True).remove)
        try:
            logits: Tensor = model(**inputs, use_cache=False).logits[0, -1]
        finally:
            for layer in layers:
                del layer.self_attn.hidden_from
    return logits


def anew(positions: Tensor, gone: Sequence[int], prompt: int) -> Tensor:
    """`positions` (1, n) or (axes, 1, n) without the values that nothing of the `prompt` has any more.

    What is behind it moves down as its first token does.
    """
    stacked = positions.reshape(-1, positions.shape[-1]).clone()
    left = [column for column in range(prompt) if column not in gone]
    lost = sorted(set(stacked[:, :prompt].flatten().tolist()) - set(stacked[:, left].flatten().tolist()))
    down = sum((stacked > value).long() for value in lost) if lost else torch.zeros_like(stacked)
    if prompt < stacked.shape[1]:
        down[:, prompt:] = down[:, prompt : prompt + 1]
    return (stacked - down).view_as(positions)
