"""`adaptinfer-eval demo`: a page to play with."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from adaptinfer_eval.sweep.errors import SweepError


def demo(
    pretrained: Annotated[str, typer.Option(help="Checkpoint to ask: a hub id or a folder.")] = "tasks/mini/model",
    methods: Annotated[
        list[str] | None, typer.Option("--method", help="One more to choose from, by file: path/to/mine.py:Mine.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of this machine, where the page is.")] = 7860,
) -> None:
    """Open a page on this machine: ask about a picture, and see what every method answers, keeps and costs."""
    if find_spec("gradio") is None:
        raise SweepError("the page needs Gradio: pip install 'adaptinfer-eval[demo]'")
    _check_free(port)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as for a sweep
    os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"  # else `datasets` tells a server that the samples were read
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # what is uploaded goes with it
        print(f"loading {pretrained} …", file=sys.stderr)
        from adaptinfer_eval.analysis.kept.asking import BUDGET, METHODS, Asker, own_config
        from adaptinfer_eval.demo.page import page, serve
        from adaptinfer_eval.demo.samples import samples
        from adaptinfer_eval.sweep.cells import settings

        config = own_config(pretrained, (*METHODS, *(methods or ())), BUDGET, "demo")
        settings(config)  # a method that does not exist is told before anything is loaded
        serve(page(Asker(config), samples(Path(folder)), methods or ()), port)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not taken by connections that have just ended
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SweepError(f"port {port} cannot be had ({error.strerror}): give another with --port") from error
