"""The versions to install, as pip's constraints: `python versions.py tested|oldest|newest` prints them.

The first line, a comment, tells apart installs that the versions alone do not: of another checkout, of other
requirements, of the newest releases on another day.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def constraints(versions: str) -> str:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    day = datetime.date.today() if versions == "newest" else ""
    name = f"# {versions} {day} {hashlib.sha256((str(ROOT) + project).encode()).hexdigest()}\n"
    if versions == "tested":
        return name + (ROOT / "constraints.txt").read_text(encoding="utf-8")
    if versions == "oldest":
        bounds = (re.match(r"([\w.-]+)>=([\w.]+)", each) for each in tomllib.loads(project)["project"]["dependencies"])
        return name + "".join(f"{bound[1]}=={bound[2]}\n" for bound in bounds if bound)
    return name


if __name__ == "__main__":
    print(constraints(sys.argv[1]), end="")
