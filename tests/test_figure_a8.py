"""Figure A.8: questions that divide two methods, and the text tokens that guided each at its stages."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.console import Console
from shell import call
from tiny_models import batch, llava, prompt
from torch import Tensor

import adaptinfer_eval as ae
from adaptinfer_eval.analysis.kept.figure_a8 import guidance_figure
from adaptinfer_eval.analysis.kept.guidance import key_tokens, recording
from adaptinfer_eval.analysis.kept.marked_text import place
from adaptinfer_eval.report.asked import divided, read_sweep
from adaptinfer_eval.report.guided import guided_questions
from adaptinfer_eval.report.page.answers import keep_documents
from adaptinfer_eval.report.page.samples import read_samples
from adaptinfer_eval.sweep.config import SweepError, load_config
from adaptinfer_eval.sweep.journal import read_answers
from adaptinfer_eval.sweep.run import run_sweep

SMALL = ("methods=adaptinfer,sparsevlm,fastv", "budgets=64", "limit=4", "workers=1", "batch_size=4")
METHODS = ("adaptinfer", "sparsevlm")
TASKS = "tasks=mini_textvqa,mini_gqa"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    config = load_config("mini", [*SMALL, TASKS, f"output={folder}"])
    assert run_sweep(config, Console(file=io.StringIO()), keep_documents) == []
    return folder


# What guides a method ---------------------------------------------------------------------------------------------


def test_key_tokens_are_a_fifth_of_them_with_all_that_weigh_as_much_and_none_without_weight() -> None:
    assert key_tokens(torch.arange(10.0)).nonzero()[0].tolist() == [8, 9]
    assert key_tokens(torch.tensor([0.0, 1, 1, 1, 1, 0, 0, 0, 0, 0])).nonzero()[0].tolist() == [1, 2, 3, 4]
    assert key_tokens(torch.tensor([0.0, 0, 0, 0, 0, 0, 0, 0, 0, 1])).nonzero()[0].tolist() == [9]
    assert key_tokens(torch.tensor([0.5, 0.25])).tolist() == [True, False]


def recorded(method: Any, inputs: dict[str, Tensor]) -> tuple[list[Any], Any]:
    seen: list[Tensor | None] = []
    model = llava()
    with torch.no_grad(), ae.pruned(model, recording(method, seen)) as trace:
        model(**inputs)
    return seen, trace


@pytest.mark.parametrize("name", ["adaptinfer", "sparsevlm", "fastv"])
def test_recording_changes_nothing(name: str) -> None:
    inputs, method = batch([prompt(5, 1, 7, 1), prompt(3, 2, 4, 2)]), ae.get_method(name)(schedule="1:30,3:12")
    seen, trace = recorded(method, inputs)
    model = llava()
    with torch.no_grad(), ae.pruned(model, method) as plain:
        model(**inputs)
    assert all(torch.equal(kept, trace.kept[layer]) for layer, kept in plain.kept.items())
    assert len(seen) == 2
    assert [weights is None for weights in seen] == [name == "fastv"] * 2


@torch.no_grad()
def test_adaptinfers_weights_are_eq_2_over_the_models_own_attention() -> None:
    inputs, text = prompt(5, 1, 7, 1), 8  # the image is followed by a token more
    model = llava("eager")
    (attention,) = model(**inputs, output_attentions=True).attentions[1].float()
    to_text = attention[:, -text:, -text:]
    for variant, want in {
        "paper": to_text.sum(1),
        "reference": to_text.sum(1) + to_text.sum(2) - to_text.diagonal(dim1=1, dim2=2),
    }.items():
        seen, _ = recorded(ae.get_method("adaptinfer")(schedule="1:30,3:12", variant=variant), inputs)
        assert torch.allclose(seen[0][0], want.sum(0), atol=1e-5)
        assert not torch.equal(seen[0], seen[1])


def test_sparsevlms_raters_are_the_same_at_every_stage() -> None:
    inputs = batch([prompt(5, 1, 7, 1), prompt(3, 2, 4, 2)])
    seen, _ = recorded(ae.get_method("sparsevlm")(schedule="1:24,3:16,5:9"), inputs)
    assert all(torch.equal(seen[0], weights) for weights in seen[1:])
    assert torch.allclose(seen[0].sum(1), torch.ones(2))
    assert (seen[0][1, :3] == 0).all()  # padding


# Text with marks --------------------------------------------------------------------------------------------------


def test_words_stay_whole_and_every_token_stands_where_it_is_read() -> None:
    pieces = ["What", " does", " the", " gr", "een", " sign", "\n", " ", "say", "?", "\nNow", " " * 3, "x" * 30]
    placed = place(pieces, {7}, 12)
    rows: dict[int, list[str]] = {}
    for spot in placed:
        row = rows.setdefault(spot.row, [" "] * 12)
        assert row[spot.column : spot.column + len(spot.letters)] == [" "] * len(spot.letters)
        row[spot.column : spot.column + len(spot.letters)] = spot.letters
    lines = ["".join(row).rstrip() for row in rows.values()]
    assert lines == ["What does", "the green", "sign", "␣say?", "Now", "x" * 12, "x" * 12, "x" * 6]
    assert place(["a", "\n", "b"], {1}, 12)[1:] == [(1, 0, 1, "↵"), (2, 1, 0, "b")]


# The figure -------------------------------------------------------------------------------------------------------


def test_questions_are_those_that_only_the_first_method_answers_right(sweep: Path) -> None:
    chosen = read_sweep(sweep, METHODS)
    found = divided(chosen, *METHODS)
    judged = {
        (task, doc): [read_samples(sweep, cell.record)[doc]["exact_match"] for cell in cells]
        for task, cells in chosen.cells.items()
        for doc in range(4)
    }
    assert found.asked == len(judged) == 8
    assert sorted(found.right) == sorted(place for place, rights in judged.items() if rights == [1, 0])
    assert found.other_way_round == sum(rights == [0, 1] for rights in judged.values())
    assert [task for task, _ in found.right][:2] == ["mini_textvqa", "mini_gqa"]  # in turn


def marks(figure: Figure) -> tuple[int, int]:
    """Boxes and underlines."""
    (page,) = figure.axes
    return sum(isinstance(patch, Rectangle) for patch in page.patches), len(page.lines)


def test_the_figure_marks_the_key_tokens_of_both(sweep: Path) -> None:
    shown, note = guided_questions(sweep, "adaptinfer", "sparsevlm", None, 2)
    assert [one.question.where.partition(",")[0] for one in shown] == ["TextVQA", "GQA"]
    boxes = lines = 0
    for one in shown:
        task, doc = re.findall(r"(\w+), question (\d+), 64", one.question.where)[0]
        for guidance, answer, name in zip((one.better, one.worse), one.question.answers, METHODS, strict=True):
            made = read_answers(sweep, f"llava-{name}-64-mini_{task.lower()}")[int(doc)]
            assert guidance.answer == answer.text == made["text"]
            assert [str(layer) for layer in guidance.key] == sorted(made["kept"], key=int)
            asked = " ".join("".join(guidance.pieces).split())
            assert asked == " ".join(f"{one.question.text} ASSISTANT:".split())
            assert all(0 < key.sum() < len(key) for key in guidance.key.values())
        boxes += int(np.any([*one.better.key.values()], axis=0).sum())
        lines += int(np.any([*one.worse.key.values()], axis=0).sum())
    figure = guidance_figure(shown, note)
    assert marks(figure) == (boxes, lines)
    words = " ".join(text.get_text() for axes in figure.axes for text in axes.texts).replace("\n", " ")
    assert "1: after layer 1, 2: after layer 10, 3: after layer 20" in words
    assert "the same ones at every stage" in words
    for one in shown:
        assert f"Right answer: {one.question.target}" in words


def test_both_files_come_out_of_the_command(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "figure", "a8", "--results", sweep, "--count", "1", "--output", tmp_path / "a8") == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "a8.png"), str(tmp_path / "a8.svg")]
    assert (tmp_path / "a8.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--better", "fastv", "--worse", "sparsevlm"), "fastv says of no text token that it guides it"),
        (("--better", "pdrop"), "has no answers of 'pdrop'"),
        (("--worse", "adaptinfer"), "none of 8 questions is right under adaptinfer and wrong under adaptinfer"),
        (("--budget", "32"), "has no answers at budget 32: choose from 64"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    sweep: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert call(monkeypatch, "figure", "a8", "--results", sweep, *arguments) == 1
    assert message in capsys.readouterr().err


def test_other_data_than_the_sweeps_are_refused(sweep: Path, tmp_path: Path) -> None:
    other = shutil.copytree(sweep, tmp_path / "other")
    for path in (other / "cells").iterdir():
        path.write_text(path.read_text(encoding="utf-8").replace('"data": "', '"data": "0'), encoding="utf-8")
    with pytest.raises(SweepError, match="was measured with something else"):
        guided_questions(other, "adaptinfer", "sparsevlm", None, 1)
