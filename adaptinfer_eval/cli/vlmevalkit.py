"""`adaptinfer-eval vlmevalkit` and `tsv`: the second harness, and the mini tasks as it reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from adaptinfer_eval.backbones import DEFAULT, FAMILIES
from adaptinfer_eval.sweep.errors import SweepError


def vlmevalkit(
    arguments: Annotated[list[str] | None, typer.Argument(help="Behind --: VLMEvalKit's own arguments.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Method; may be given several times.")] = None,
    budget: Annotated[list[float] | None, typer.Option(help="Mean vision tokens per layer; several times.")] = None,
    family: Annotated[str, typer.Option(help=f"One of {', '.join(FAMILIES)}.")] = DEFAULT,
    pretrained: Annotated[str | None, typer.Option(help="Checkpoint: a hub id or a folder.")] = None,
    model_args: Annotated[str, typer.Option(help="More of the model's and method's arguments: a=b,c=d.")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered together.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Models, each in a process of its own.")] = 1,
    prompts: Annotated[Literal["papers", "kit"], typer.Option(help="Whose prompts, where they differ.")] = "papers",
) -> None:
    """Run VLMEvalKit with pruned models; the exit code is 1 where a score is missing (docs/harnesses.md)."""
    from adaptinfer_eval.vlmevalkit.names import check_method, model_name, with_budget
    from adaptinfer_eval.vlmevalkit.run import hand_over

    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as for a sweep
    if family not in FAMILIES:
        raise SweepError(f"no family {family!r}: there are {', '.join(FAMILIES)}")
    how = {"batch_size": batch_size, "workers": workers, "prompts": prompts}
    own = _read(model_args) | ({} if pretrained is None else {"pretrained": pretrained})
    if taken := own.keys() & {*how, "budget", "method", "family"}:
        raise SweepError(f"--model-args {min(taken)}=…: give --{min(taken).replace('_', '-')} instead")
    models: dict[str, dict[str, Any]] = {}
    for name in method or ():
        check_method(name)
        for one in budget if budget and _takes_budget(name) else [None]:
            called = model_name(name, family, one, own | how)
            models[called] = {"method": name, "family": family, **with_budget(one), **own, **how}
    hand_over(arguments or [], models, own | how)


def tsv(
    folder: Annotated[Path, typer.Argument(help="VLMEvalKit's data folder, as in LMUData.")],
) -> None:
    """Write the mini tasks as files in VLMEvalKit's format."""
    from adaptinfer_eval.vlmevalkit.tsv import write_tsv

    for path in write_tsv(folder):
        print(path)


def _takes_budget(method: str) -> bool:
    import dataclasses

    from adaptinfer_eval.methods.method import get_method

    return "budget" in {field.name for field in dataclasses.fields(get_method(method))}


def _read(text: str) -> dict[str, str]:
    """Arguments as lmms-eval writes them, `a=b,c=d`; SweepError where they are not."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    if wrong := next((name for name, equals, _ in pairs if not equals), None):
        raise SweepError(f"--model-args: {wrong!r} is not of the form name=value")
    return {name: value for name, _, value in pairs}
