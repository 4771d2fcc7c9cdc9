"""The methods that docs/method-authors.md shows: short, and they run as the page says, batched as alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import batch, internvl, llava, prompt
from typer.testing import CliRunner

import adaptinfer_eval as ae
from adaptinfer_eval.cli import app

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "method-authors.md").read_text(encoding="utf-8")
CODE: list[str] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
BLOCKS = {re.findall(r"^class (\w+)\(", block, re.MULTILINE)[0]: block for block in CODE}
OPTIONS: dict[str, dict[str, Any]] = {
    "Quiet": {"schedule": "1:30,3:12", "power": 3},
    "Corners": {"budget": 20, "outward": 1},
    "Averaged": {"budget": 20},
}


@pytest.fixture(params=OPTIONS)
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One of them with options, loaded by its file's name."""
    monkeypatch.chdir(tmp_path)
    code = BLOCKS[request.param]
    file = code.splitlines()[0].removeprefix("# ")
    (tmp_path / file).write_text(code)
    return ae.get_method(f"{file}:{request.param}")(**OPTIONS[request.param])


def test_the_page_has_three_short_ones() -> None:
    assert BLOCKS.keys() == OPTIONS.keys()
    assert max(len(block.splitlines()) for block in BLOCKS.values()) < 40


@pytest.mark.parametrize("model", [llava, internvl])
def test_batched_is_as_alone(example: Any, model: Any) -> None:
    whole, prompts = model(), [prompt(5, 1, 7, 1), prompt(3, 2, 9, 2), prompt(4, 0, 5, 3)]

    def run(inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[list[int]], torch.Tensor]:
        with torch.no_grad(), ae.pruned(whole, example) as trace:
            logits = whole(**inputs).logits[:, -1]
        kept = trace.kept[max(trace.kept)] if trace.kept else logits.new_empty(len(logits), 0)
        return logits, [row[row >= 0].tolist() for row in kept], trace.entering

    longest = max(one["input_ids"].shape[1] for one in prompts)
    logits, kept, entering = run(batch(prompts))
    for row, alone in enumerate(map(run, prompts)):
        assert torch.allclose(logits[row], alone[0][0], atol=3e-4)
        padding = longest - prompts[row]["input_ids"].shape[1]
        assert [column - padding for column in kept[row]] == alone[1][0]
        assert torch.equal(entering[row], alone[2][0])
    assert 0 < entering[0, -1] < 64


def test_a_token_for_the_whole_image_is_the_last_one(tmp_path: Path) -> None:
    (tmp_path / "averaged.py").write_text(BLOCKS["Averaged"])
    method = ae.get_method(f"{tmp_path}/averaged.py:Averaged")
    tokens = torch.randn(2, 9, 4)
    selection = method(budget=4).select(ae.Images(tokens, tokens, None, (3, 3), project=lambda rows: rows), 4)
    assert selection.index.tolist() == [[0, 3, 6, 9]] * 2
    assert torch.allclose(selection.rows[:, -1], tokens.mean(1))
    with pytest.raises(ValueError, match="at least 2"):
        method(budget=1).entering(8, 64)


def test_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quiet.py").write_text(BLOCKS["Quiet"])
    monkeypatch.chdir(tmp_path)
    command = re.search(r"^adaptinfer-eval (plan mini [^#\n]*)", PAGE, re.MULTILINE)
    assert command is not None
    shown = CliRunner().invoke(app, command[1].split())
    assert "| Quiet " in shown.output, shown.output
