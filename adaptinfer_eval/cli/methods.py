"""`adaptinfer-eval methods`: what there is, and where each of it acts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from adaptinfer_eval.sweep.errors import SweepError

if TYPE_CHECKING:
    from adaptinfer_eval.methods.image import ImageMethod
    from adaptinfer_eval.methods.layer import LayerMethod
    from adaptinfer_eval.methods.method import Method

DEPTH = 32
"""Of the decoder and of the vision tower that methods are asked about: what is told does not depend on it."""
HEADERS = ("method", "what it does", "acts", "sees", "source", "their code", "options")


def methods(
    names: Annotated[
        list[str] | None, typer.Argument(help="Some of them, or one by file: path/to/mine.py:Mine.")
    ] = None,
) -> None:
    """List methods: what each does, where it acts, what it sees, who published it under which licence, its options."""
    from tabulate import tabulate

    from adaptinfer_eval.methods.method import available_methods, get_method

    try:
        rows = [_row(name, get_method(name)) for name in names or available_methods()]
    except ValueError as error:
        raise SweepError(str(error)) from error
    print(tabulate(rows, HEADERS, "github", maxcolwidths=[None, 46, 14, 24, 16, 12, 28]))
    print("\nTheir code: the licence of the authors' own code; none of it is in here. docs/methods.md says more.")


def _row(name: str, cls: type[Method]) -> tuple[str, ...]:
    from adaptinfer_eval.methods.by_file import title

    made = _example(cls)
    before, inside = (made.before(DEPTH), made.inside(DEPTH)) if made else (None, None)
    places = [*([_where(before)] if before else []), *(["after layers"] if inside else [])]
    sees = [*(_image_sees(before) if before else []), *(_layer_sees(inside) if inside else [])]
    options = (
        field.name if field.default is dataclasses.MISSING else f"{field.name}={field.default}"
        for field in dataclasses.fields(cls)
    )
    return (
        title(name),
        (cls.__doc__ or "").strip().splitlines()[0],
        " and ".join(places) or "–",
        ", ".join(dict.fromkeys(sees)) or "–",
        cls.source or "–",
        cls.licence or "–",
        ", ".join(options) or "none",
    )


def _example(cls: type[Method]) -> Method | None:
    """One of them with some budget; None where it has no default for other options."""
    try:
        return cls(**{"budget": 64} if any(field.name == "budget" for field in dataclasses.fields(cls)) else {})
    except TypeError:
        return None


def _where(method: ImageMethod) -> str:
    return "in the tower" if method.in_tower else "before the decoder"


def _image_sees(method: ImageMethod) -> list[str]:
    if method.in_tower:
        return ["the tower's keys"]
    look = method.look(DEPTH - 2, DEPTH)
    seen = {
        "tokens": True,
        "attention to tokens": look.attention or look.received,
        "keys": look.keys,
        "class token's queries": look.queries,
        "features before the projector": look.hidden,
        "text": look.text,
        "the question": look.question,
        "CLIP's text tower": look.clip,
    }
    return [name for name, asked in seen.items() if asked]


def _layer_sees(method: LayerMethod) -> list[str]:
    from adaptinfer_eval.methods.layer import LayerMethod as Base

    rows = {
        "text": "attention from text",
        "last": "the last token's attention",
        "all": "attention from text and vision",
        "none": "",
    }
    parts = {"keys": "keys", "entering": "what enters a layer", "leaving": "what leaves a layer"}
    ahead = " in the next layer" if method.looks_ahead else ""
    embeddings = "embeddings" if type(method).prepare is not Base.prepare else ""
    seen = [rows[method.queries] + ahead * bool(rows[method.queries]), embeddings]
    return [*filter(None, seen), *(parts[part] for part in method.looks_at)]
