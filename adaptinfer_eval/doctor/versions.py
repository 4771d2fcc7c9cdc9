"""Are the installed packages those that this release was tested with? The ranges are pyproject.toml's, as installed."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from adaptinfer_eval.doctor.finding import Finding

PACKAGE = "adaptinfer-eval"
SHOWN = ("torch", "transformers", "lmms-eval")


def versions() -> Iterator[Finding]:
    """One finding about Python and all packages that the installed metadata requires."""
    wrong, wanted = [], []
    python = metadata.metadata(PACKAGE)["Requires-Python"]
    if not SpecifierSet(python).contains(platform.python_version(), prereleases=True):
        wrong.append(f"Python {platform.python_version()} is outside {python}")
    requirements = [Requirement(line) for line in metadata.requires(PACKAGE) or []]
    needed = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    for one in needed:
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{one.name} is not installed")
        else:
            if one.specifier.contains(version, prereleases=True):
                continue
            wrong.append(f"{one.name} {version} is outside {one.specifier}, what was tested")
        wanted.append(f"'{one.name}{one.specifier}'")
    if wrong:
        remedy = f"pip install {' '.join(wanted)}" if wanted else f"make an environment with Python {python}"
        yield Finding("versions", "fails", "; ".join(wrong), remedy)
    else:
        shown = ", ".join(f"{name} {metadata.version(name)}" for name in SHOWN)
        yield Finding("versions", "ok", f"{len(needed)} packages within the tested ranges: {shown}")


def imports() -> Iterator[Finding]:
    """Does what a sweep is made of import?"""
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import lmms_eval.evaluator  # noqa: F401
    import torch  # noqa: F401
    import transformers

    import adaptinfer_eval.sweep.run  # noqa: F401
    from adaptinfer_eval.pruning.releases import NEWEST_TESTED

    if Version(transformers.__version__).release[:2] > Version(NEWEST_TESTED).release:
        text = f"transformers {transformers.__version__} is newer than {NEWEST_TESTED}, the newest that was tested"
        yield Finding("imports", "warning", text, "see below whether methods do what they did, or install that one")
        return
    yield Finding("imports", "ok", "torch, transformers, lmms-eval and what they import")
