"""Writes constraints.txt anew: the newest releases, within pyproject.toml's ranges, of all that both scripts install.

`python3 .ci/renew.py`, under the oldest supported Python, so that every pin installs there. Nothing is installed by it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    ask = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    report = subprocess.run([*ask, "--editable", f"{ROOT}[dev,vlmevalkit]"], stdout=subprocess.PIPE, check=True).stdout
    chosen = [each["metadata"] for each in json.loads(report)["install"] if not each["is_direct"]]
    # A local version ("2.14.1+cpu") names one builder's file: the plain one fits every machine.
    pins = {re.sub(r"[-_.]+", "-", each["name"].lower()): each["version"].split("+")[0] for each in chosen}
    lines = "".join(f"{name}=={version}\n" for name, version in sorted(pins.items()))
    (ROOT / "constraints.txt").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
