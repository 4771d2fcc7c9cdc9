"""What the README shows works as shown: the Python lines, and the method of one's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHECK = """
import sys; sys.path.insert(0, "tests")
import torch, adaptinfer_eval as ae
from tiny_models import llava, prompt
from lmms_eval.models import get_model
assert "mean_text" in ae.available_methods()
model = llava()
with torch.no_grad(), ae.pruned(model, ae.get_method("mean_text")(budget=20, power=2)) as trace:
    model(**prompt(5, 1, 7, 1))
leaving = [*trace.entering[0, 1:].tolist(), int(trace.entering[0, -1])]
assert abs(sum(leaving) / 8 - 20) <= 0.5, leaving
print(get_model("mean_text_llava").__name__)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_table_of_budgets_is_what_its_command_prints() -> None:
    plan = [sys.executable, "-m", "adaptinfer_eval.cli", "plan", "table1", "budgets=64"]
    lines = subprocess.run(plan, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line for line in lines if line.startswith("|") and line not in README] == []


def test_python_lines_run() -> None:
    lines = next(block for block in blocks("python") if "ae.pruned(" in block)
    run = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "tensor(82.875" in run.stdout, run.stdout


def test_own_method_installs_and_runs(tmp_path: Path) -> None:
    code = next(block for block in blocks("python") if block.startswith("# mean_text.py"))
    assert len(code.splitlines()) <= 40
    (tmp_path / "mean_text.py").write_text(code)
    (tmp_path / "pyproject.toml").write_text(blocks("toml")[0])
    target = tmp_path / "installed"
    install = [
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
        str(tmp_path),
    ]
    subprocess.run([sys.executable, *install], check=True)
    run = subprocess.run(
        [sys.executable, "-c", CHECK],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "mean_text" in run.stdout
