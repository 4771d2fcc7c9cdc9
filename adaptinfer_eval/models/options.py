"""Model arguments as lmms-eval hands them over, turned into what they mean; unknown ones are errors."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import sys
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from adaptinfer_eval.method import Method

if TYPE_CHECKING:
    import torch


def plain(value: Any) -> Any:
    """Undo lmms-eval's reading of `key=value`: it keeps quotes and leaves `None` a word."""
    if isinstance(value, str):
        value = value.strip().strip("'\"")
        return None if value == "None" else value
    return value


def make_method(method: type[Method], options: Mapping[str, Any], other_known: Collection[str]) -> Method:
    """`method` with `options`, each turned into its field's type.

    A comma ends a model argument, so text options are written with `/`: `schedule=1:133/10:27/20:3`.
    Raises ValueError for an unknown option (`other_known`: names of arguments that are not the method's) and for a
    value of the wrong type.
    """
    fields = {field.name for field in dataclasses.fields(method) if field.init}
    for name in options:
        if name not in fields:
            known = sorted({*fields, *other_known})
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"unknown model argument {name!r}: {hint}{method.__name__} takes {', '.join(sorted(fields))}; "
                f"the wrapper takes {', '.join(sorted(other_known))}"
            )
    values = {}
    for name, given in options.items():
        value, wanted = plain(given), _type(method, name)
        if value is not None and str in (wanted, *get_args(wanted)):
            value = str(value).replace("/", ",")
        try:
            values[name] = TypeAdapter(wanted).validate_python(value)
        except ValidationError as error:
            raise ValueError(f"model argument {name}={given!r}: {error.errors()[0]['msg']}") from None
    return method(**values)


def _type(method: type[Method], option: str) -> Any:
    """Of one option alone: what else a class annotates may name types that only a type checker imports."""
    owner = next(base for base in method.__mro__ if option in inspect.get_annotations(base))
    alone = SimpleNamespace(__annotations__={option: inspect.get_annotations(owner)[option]})
    return get_type_hints(alone, vars(sys.modules[owner.__module__]))[option]


def pick_device(device: str | torch.device | None) -> torch.device:
    """This process's device: the one asked for, else the accelerator there is, else the CPU.

    Processes of one machine take one accelerator each, by LOCAL_RANK, unless `device` names one by number.
    """
    import torch

    chosen = torch.device(device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
    if chosen.type != "cpu" and chosen.index is None:
        return torch.device(chosen.type, int(os.environ.get("LOCAL_RANK", "0")))
    return chosen


_OURS = {"pad_token_id", "return_dict_in_generate"}
"""What the wrapper itself gives to generate. No answer depends on it: padding, say, is cut off."""

_BLIND = {
    *{"max_length", "max_new_tokens", "min_new_tokens", "max_time", "early_stopping", "length_penalty", "num_beams"},
    *{"num_return_sequences", "do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p"},
    *{"epsilon_cutoff", "eta_cutoff", "renormalize_logits", "remove_invalid_values", "suppress_tokens"},
    *{"begin_suppress_tokens", "exponential_decay_length_penalty", "pad_token_id", "bos_token_id", "eos_token_id"},
    *{"use_cache", "cache_implementation", "disable_compile", "low_memory", "return_dict_in_generate"},
    *{"output_attentions", "output_hidden_states", "output_scores", "output_logits", "transformers_version"},
}
"""Options of generate that know of a prompt what the model itself makes of it, and how many tokens came since."""


def may_see_prompt(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of those of generate's `options` in force that may look at the tokens of a prompt, or count them; sorted.

    Whatever is not known to be blind may: an option that is new to transformers, too.
    """
    from transformers import GenerationConfig

    known = vars(GenerationConfig())  # type: ignore[no-untyped-call]

    def is_off(name: str, value: Any) -> bool:
        return not value or value == known[name] or (value == 1 and name.endswith(("penalty", "scale")))

    may = (name for name in options.keys() & known.keys() - _BLIND if not name.startswith("_"))
    return tuple(sorted(name for name in may if not is_off(name, options[name])))


@dataclasses.dataclass(frozen=True)
class Generation:
    """One request's generation arguments: `options` for transformers' generate, `until` cut off afterwards.

    `ignored`: keys that transformers does not know (tasks carry some that are meant for one model only), and those that
    change no answer here.
    """

    options: Mapping[str, Any]
    until: tuple[str, ...]
    ignored: tuple[str, ...]

    @classmethod
    def read(cls, arguments: Mapping[str, Any]) -> Generation:
        """lmms-eval's arguments; nothing is sampled at temperature 0, the default, and nothing is written to them."""
        from transformers import GenerationConfig

        left = dict(arguments)
        if left.pop("num_return_sequences", 1) != 1:
            raise ValueError("num_return_sequences: a request has one answer; leave it out of generation_kwargs")
        until = left.pop("until", None) or []
        until = tuple([until] if isinstance(until, str) else until)
        if not all(isinstance(stop, str) and stop for stop in until):
            raise ValueError(f"until={list(until)}: a stop is a text of at least one character; leave others out")
        temperature = left.pop("temperature", None)
        sample = bool(left.pop("do_sample", bool(temperature))) and temperature != 0
        top_p = left.pop("top_p", None)
        options = {
            "max_new_tokens": int(left.pop("max_new_tokens", 1024)),
            "num_beams": int(left.pop("num_beams", None) or 1),
            "do_sample": sample,
            "temperature": temperature if sample else None,
            "top_p": top_p if sample else None,
        }
        known = set(vars(GenerationConfig())) - _OURS  # type: ignore[no-untyped-call]
        options |= {name: value for name, value in left.items() if name in known}
        return cls(
            options=options,
            until=until,
            ignored=tuple(name for name in left if name not in known),
        )
