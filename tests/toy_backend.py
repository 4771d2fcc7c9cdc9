"""A build backend for the toy project of test_install.py: no setuptools, nothing to download."""

from __future__ import annotations

import zipfile
from typing import Any

SCRIPT = """
import importlib.metadata, sys
def main(): print(importlib.metadata.version("part"), *sys.argv[1:])
"""


def wheel(folder: object, name: str, version: str, *fields: str, **files: str) -> str:
    """Write the wheel of `name`, with more `fields` of its metadata and `files`; its file name."""
    information = f"{name}-{version}.dist-info"
    head = [f"Name: {name}", f"Version: {version}", *fields]
    with zipfile.ZipFile(f"{folder}/{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{information}/METADATA", "\n".join(["Metadata-Version: 2.1", *head, ""]))
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
        for path, text in files.items():
            archive.writestr(path if path.endswith(".py") else f"{information}/{path}", text)
    return f"{name}-{version}-py3-none-any.whl"


def build_editable(folder: str, settings: Any = None, metadata: Any = None) -> str:
    return wheel(
        folder,
        "toy",
        "1",
        "Requires-Dist: part>=1.1,<4",
        "Provides-Extra: dev",
        **{"toy.py": SCRIPT, "entry_points.txt": "[console_scripts]\nadaptinfer-eval = toy:main\n"},
    )
