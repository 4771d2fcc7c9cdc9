"""The wheel holds everything: in a fresh environment every method loads, and tasks and configs are found."""

from __future__ import annotations

import ast
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from adaptinfer_eval import backbones

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "adaptinfer_eval"
CHECK = """
import importlib.metadata, pathlib, adaptinfer_eval as ae
assert "site-packages" in ae.__file__, ae.__file__
for entry in importlib.metadata.entry_points(group="adaptinfer_eval.methods"):
    assert issubclass(entry.load(), ae.Method), entry
for entry in importlib.metadata.entry_points(group="lmms_eval.models"):
    if entry.value.startswith("adaptinfer_eval"):
        assert len(entry.load()()) >= len(ae.available_methods())
package = pathlib.Path(ae.__file__).parent
for path in ("configs/mini.yaml", "tasks/mini/adaptinfer_mini.yaml", "tasks/mini/data/mme.parquet",
             "tasks/mini/data/clips/00.mkv", "tasks/mini/model/config.json",
             "tasks/paper/adaptinfer_paper.yaml", "py.typed",
             "demo/answers.html.jinja", "demo/demo.css", "demo/problem.html.jinja",
             "doctor/kept.json", "report/page/page.css", "report/page/page.html.jinja", "report/page/page.js"):
    assert (package / path).is_file(), path
from adaptinfer_eval.sweep.config import shipped
for path in ("results/published.yaml", "results/schema/record.json", "results/baselines/ci.json"):
    assert shipped(path) == package / path, path
assert not (package / "results" / "runs").exists()
print(*ae.available_methods())
"""


def test_wheel_in_a_fresh_environment(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy, so that no build folder appears in the checkout
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    measured = source / "results" / "runs" / "mini" / "cells" / "cell.json"  # of the user's, and not for others
    measured.parent.mkdir(parents=True)
    measured.write_text("{}")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(source)]
    built = subprocess.run(build, check=True, capture_output=True, text=True)
    assert "!!" not in built.stdout + built.stderr  # the frame of all that setuptools warns of
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "check_wheel_contents", "--ignore", "W002,W004", str(wheel)], check=True)
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True)
    # The heavy dependencies are this environment's; the project itself must come from the wheel.
    site = next((tmp_path / "venv" / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
    run = subprocess.run([python, "-c", CHECK], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "adaptinfer" in run.stdout


def imported(path: Path) -> set[str]:
    """What a file imports anywhere in it, each name with its module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("folder", ["adaptinfer_eval", "tests", "benchmarks"])
def test_nothing_imports_a_baseline_by_module(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert not [n for n in imported(path) if "baselines" in n.split(".")], f"{path}: ask for it by name"


@pytest.mark.parametrize(
    ("files", "rests_on"),
    [
        ("adaptinfer_eval/methods/*.py", ()),
        ("adaptinfer_eval/adaptinfer.py", ()),
        ("baselines/*.py", ("adaptinfer_eval.adaptinfer.",)),  # whose schedules controls go by
    ],
)
def test_methods_rest_on_the_ground_floor_alone(files: str, rests_on: tuple[str, ...]) -> None:
    paths = sorted(ROOT.glob(files))
    assert paths
    for path in paths:
        given = {"torch"} | ({"transformers"} if path.name == "clip_text.py" else set())  # which loads another model
        outside = {name for name in imported(path) if name.split(".")[0] not in sys.stdlib_module_names | given}
        above = {name for name in outside if not name.startswith(("adaptinfer_eval.methods.", *rests_on))}
        assert not above, f"{path}: a method sees tensors, and imports from adaptinfer_eval.methods alone"


@pytest.mark.parametrize("path", sorted((PACKAGE / "backbones").glob("*.py")), ids=lambda path: path.stem)
def test_families_rest_on_the_ground_floor_alone(path: Path) -> None:
    ours = {name for name in imported(path) if name.startswith("adaptinfer_eval")}
    assert not {name for name in ours if not name.startswith("adaptinfer_eval.backbones")}


def test_nobody_else_knows_a_family() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "backbones" and path.name != "adaptinfer.py":  # which names a variant after a family
            said = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            assert not said & backbones.FAMILIES.keys(), f"{path}: ask adaptinfer_eval.backbones"


def test_baselines_refuse_to_be_imported_from_the_checkout() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import baselines"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode
    assert "ask for them by name" in run.stderr
