"""`adaptinfer-eval convert`: a published checkpoint in another layout, as one that transformers loads."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[
        str,
        typer.Argument(help="Hub id or folder: OpenGVLab/InternVL-Chat-ViT-6B-Vicuna-7B, or one of its layout."),
    ],
    target: Annotated[Path, typer.Argument(help="Folder to write; it must not be there yet.")],
    tower: Annotated[
        str | None,
        typer.Option(help="Hub id or folder of its InternViT-6B, where SOURCE does not hold it."),
    ] = None,
) -> None:
    """Write InternVL-Chat in the layout of LLaVA's code anew, in Hugging Face's; the hub id stays known to tables."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from adaptinfer_eval.convert.internvl_chat import convert as write

    write(source, target, tower, functools.partial(print, file=sys.stderr))
    print(target)
