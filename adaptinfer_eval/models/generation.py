"""How a request wants its answer generated: options of transformers' generate, and which of them see the prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

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
        left = dict(arguments)
        if (left.pop("num_return_sequences", None) or 1) != 1:
            raise ValueError("num_return_sequences: a request has one answer; leave it out of generation_kwargs")
        until = left.pop("until", None) or []
        until = tuple([until] if isinstance(until, str) else until)
        if not all(isinstance(stop, str) and stop for stop in until):
            raise ValueError(f"until={list(until)}: a stop is a text of at least one character; leave others out")
        temperature = left.pop("temperature", None)
        sample = bool(left.pop("do_sample", bool(temperature))) and temperature != 0
        top_p = left.pop("top_p", None)
        options = {
            "max_new_tokens": int(left.pop("max_new_tokens", None) or 1024),
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
