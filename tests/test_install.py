"""What is declared, what is tested, and what the scripts install are one."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from toy_backend import wheel

from adaptinfer_eval.pruning.releases import NEWEST_TESTED

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
DECLARED = [Requirement(each) for each in PROJECT["dependencies"]]
TOY = """
[build-system]
requires = []
build-backend = "toy_backend"
backend-path = ["."]

[project]
name = "toy"
version = "1"
dependencies = ["part>=1.1,<4"]
"""


def read(pins: str) -> dict[str, str]:
    """Package → version of the lines of a constraints file that are no comment."""
    return dict(line.split("==") for line in pins.splitlines() if not line.startswith("#"))


TESTED = read((ROOT / "constraints.txt").read_text(encoding="utf-8"))


def is_installed(name: str, version: str) -> bool:
    return any(found.version == version for found in importlib.metadata.distributions(name=name))


def test_the_tested_set_is_plain_pins() -> None:
    """No address, no file, no builder's mark ("+cpu"), sorted, each package once."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==\d[a-z0-9.]*", line)] == []
    assert list(TESTED) == sorted({canonicalize_name(line.split("==")[0]) for line in lines})
    assert len(TESTED) == len(lines)


def test_the_tested_set_is_within_the_ranges_and_has_all_they_need() -> None:
    extras = [Requirement(each) for each in PROJECT["optional-dependencies"]["dev"]]
    build = [Requirement(each) for each in PYPROJECT["build-system"]["requires"]]
    waiting, followed = [*DECLARED, *extras, *build], set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        assert name in TESTED, f"{wanted} is not in constraints.txt: python3 .ci/renew.py"
        assert wanted.specifier.contains(TESTED[name]), f"{wanted}, constraints.txt has {TESTED[name]}"
        if (name, frozenset(wanted.extras)) in followed or not is_installed(name, TESTED[name]):
            continue  # what another version needs says nothing of the tested set
        followed.add((name, frozenset(wanted.extras)))
        asked = [{"extra": extra} for extra in wanted.extras or {""}]
        needs = map(Requirement, importlib.metadata.requires(name) or ())
        waiting += [each for each in needs if not each.marker or any(map(each.marker.evaluate, asked))]


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    command = [sys.executable, ".ci/versions.py", "oldest"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    oldest = read(printed.stdout)
    bounds = {wanted.name: wanted.specifier for wanted in DECLARED if ">=" in str(wanted.specifier)}
    assert oldest.keys() == bounds.keys() == {wanted.name for wanted in DECLARED} - {"filelock", "packaging"}
    assert [name for name, version in oldest.items() if f">={version}" not in str(bounds[name]).split(",")] == []


@pytest.mark.parametrize("name", ["transformers", "lmms-eval", "torch", "filelock"])
def test_the_readme_names_the_range(name: str) -> None:
    (wanted,) = (each for each in PROJECT["dependencies"] if Requirement(each).name == name)
    assert f"`{wanted}`" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_engine_warns_of_what_the_range_excludes() -> None:
    (wanted,) = (each for each in DECLARED if each.name == "transformers")
    major, minor = map(int, NEWEST_TESTED.split("."))
    assert TESTED["transformers"].startswith(f"{NEWEST_TESTED}.")
    excluded = [each.version for each in wanted.specifier if each.operator == "<"]
    assert excluded in ([f"{major}.{minor + 1}"], [])  # none: where bounds are lifted to see what lies beyond them


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == PROJECT["version"]


def test_scripts_install_the_tested_newest_or_oldest_and_change_between_them(tmp_path: Path) -> None:
    """Real pip, real environments, `run_eval.sh` itself; the project is a toy that prints which `part` it has."""
    checkout, wheels = tmp_path / "check out", tmp_path / "wheels"
    shutil.copytree(ROOT / ".ci", checkout / ".ci")
    wheels.mkdir()
    for name in ("run_eval.sh", "tests/toy_backend.py"):
        shutil.copy(ROOT / name, checkout)
    (checkout / "pyproject.toml").write_text(TOY)
    for version in ("1.0", "1.1", "1.2", "2.0", "4.0"):
        wheel(wheels, "part", version)
    quiet = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")} | quiet

    def run(*arguments: str, pin: str = "1.2") -> tuple[str, bool]:
        (checkout / "constraints.txt").write_text(f"part=={pin}\n")
        command = [str(checkout / "run_eval.sh"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), "installing" in done.stderr

    assert run() == ("1.2 run mini", True)
    assert run("ci", "limit=2") == ("1.2 run ci limit=2", False)
    assert run("--newest", "ci") == ("2.0 run ci", True)
    assert run("--newest") == ("2.0 run mini", False)
    assert run() == ("1.2 run mini", True)
    assert run(pin="2.0") == ("2.0 run mini", True)
    assert run("--oldest", "--venv", str(checkout / ".venv")) == ("1.1 run mini", True)
    assert run() == ("1.2 run mini", True)
