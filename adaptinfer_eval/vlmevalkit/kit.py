"""The installed VLMEvalKit, imported when it is asked for; what it needs is looked at before anything is answered."""

from __future__ import annotations

import importlib
import os
import ssl
import sys
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.vlmevalkit import DATA

INSTALL = (
    "pip install 'adaptinfer-eval[vlmevalkit]', and then pip install --no-deps ms-vlmeval latex2sympy2-extended "
    "antlr4-python3-runtime==4.13.2"
)
"""In two steps: lmms-eval's requirements and its own name different releases of antlr4 (docs/harnesses.md)."""


def load_kit(module: str) -> Any:
    """`module` of VLMEvalKit, as in "vlmeval.dataset", with the mini data sets added to those that it knows.

    SweepError where it is not installed, or lacks a package that scoring needs. Importing one of its distributions
    switches the checking of SSL certificates off for the whole process: it is switched on again.
    """
    if find_spec("vlmeval") is None:
        raise SweepError(f"VLMEvalKit (package vlmeval) is not installed: {INSTALL}")
    for name in ("xlsxwriter", "openpyxl"):
        if find_spec(name) is None:
            raise SweepError(f"VLMEvalKit scores nothing without {name}: pip install {name}")
    root = os.environ.get("LMUData")  # noqa: SIM112  (so it is spelled)
    if root is not None and not Path(root).is_dir():
        raise SweepError(f"LMUData={root} is no folder, and VLMEvalKit would take another: make it, or unset LMUData")
    checked = ssl._create_default_https_context
    try:
        found = importlib.import_module(module)
        _add_mini_data(importlib.import_module("vlmeval.dataset"))
    except ImportError as error:
        raise SweepError(f"VLMEvalKit cannot be imported ({error}): {INSTALL}") from error
    finally:
        ssl._create_default_https_context = checked
    if distribution() == "nvidia-vlmeval":
        print(
            "nvidia-vlmeval stores images as JPEG: models see other pixels than with ms-vlmeval, and scores differ",
            file=sys.stderr,
        )
    return found


def distribution() -> str:
    """The distribution that VLMEvalKit was installed from: ms-vlmeval or nvidia-vlmeval."""
    return packages_distributions().get("vlmeval", ["vlmeval"])[0]


def kit_version() -> dict[str, str]:
    """Its distribution and version; SweepError where it is not installed."""
    name = distribution()
    if find_spec("vlmeval") is None:
        raise SweepError(f"VLMEvalKit (package vlmeval) is not installed: {INSTALL}")
    return {name: version(name)}


def check_data(dataset: str) -> None:
    """SweepError for a data set of the mini tasks that has not been written yet, and for one without a score.

    Of a file that it does not know, VLMEvalKit scores questions with options (columns A, B) alone.
    """
    from vlmeval.dataset import SUPPORTED_DATASETS
    from vlmeval.smp import LMUDataRoot

    path = Path(LMUDataRoot(), f"{dataset}.tsv")
    if dataset in DATA.values() and dataset.startswith("MINI_"):
        if not path.is_file():
            raise SweepError(f"{path} is not there: adaptinfer-eval tsv {path.parent} writes it")
    elif dataset not in SUPPORTED_DATASETS:
        if not path.is_file():
            raise SweepError(f"VLMEvalKit has no data set {dataset}, and there is no {path}: look at its name")
        with path.open(encoding="utf-8") as file:
            columns = file.readline().rstrip("\n").split("\t")
        if not {"A", "B"} <= set(columns):
            raise SweepError(f"{path}: VLMEvalKit scores no data of your own without options: give it columns A, B, …")


def _add_mini_data(datasets: Any) -> None:
    """How VLMEvalKit scores data goes by class and name: MME in pairs, MMBench with circular copies, TextVQA by ten."""
    kinds = {
        "ImageYORNDataset": ("MINI_MME",),
        "ImageMCQDataset": ("MINI_MMBench", "MINI_ScienceQA"),
        "ImageVQADataset": ("MINI_GQA", "MINI_TextVQA"),
    }
    for kind, names in kinds.items():
        getattr(datasets, kind).DATASET_URL.update({name: f"{name}.tsv" for name in names})
