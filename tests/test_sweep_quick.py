"""What is wrong with everything is told before the first answer, or after a few cells, and costs nothing."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import lmms_eval.evaluator
import pytest
from lmms_tiny import save_tiny_llava
from sweeps import run, small_sweep

from adaptinfer_eval.adaptinfer import AdaptInfer
from adaptinfer_eval.models.base import PrunedModel
from adaptinfer_eval.sweep.alike import kind_of
from adaptinfer_eval.sweep.cells import Cell, Setting
from adaptinfer_eval.sweep.config import MethodEntry, SweepError
from adaptinfer_eval.sweep.journal import read_answers
from adaptinfer_eval.sweep.shards import one_question_first, shards

FOUR = ("methods=vanilla,fastv,adaptinfer,random", "tasks=mini_gqa,mini_scienceqa")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"), layers=8)


def answered(folder: Path) -> Counter[str]:
    return Counter({path.stem: len(read_answers(folder, path.stem)) for path in folder.glob("journal/*.jsonl")})


def records(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob("cells/*.json")]


def without_filelocks_api(patch: pytest.MonkeyPatch) -> None:
    """As with a release of filelock that lmms-eval does not know: it imports the module when it begins to score."""
    patch.delattr(lmms_eval.evaluator._enable_reentrant_filelocks, "_patched", raising=False)
    patch.setitem(sys.modules, "filelock._api", None)


def test_what_cannot_be_scored_at_all_is_not_answered(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = small_sweep(checkpoint, tmp_path, *FOUR, "limit=2")
    with monkeypatch.context() as patch:
        without_filelocks_api(patch)
        with pytest.raises(SweepError, match=r"all 2 tasks, 8 cells, fail alike .*filelock\._api.*doctor"):
            run(sweep)
    assert answered(tmp_path).total() == 0
    found, failed, _ = run(sweep)
    assert failed == []
    assert {record["status"] for record in found.values()} == {"done"}
    without_filelocks_api(monkeypatch)
    _, failed, shown = run(sweep)  # nothing is scored where nothing is left to answer
    assert failed == []
    assert "0/0 cells" in shown


def test_a_task_that_cannot_be_scored_is_not_answered_and_the_others_are(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmms_eval.api.task import ConfigurableTask

    score = ConfigurableTask.process_results

    def breaks(self: Any, doc: Any, results: Any, full_docs: Any = None) -> Any:
        if self.config.task == "mini_gqa":
            raise LookupError("no such answer")
        return score(self, doc, results, full_docs)

    monkeypatch.setattr(ConfigurableTask, "process_results", breaks)
    found, failed, shown = run(small_sweep(checkpoint, tmp_path, *FOUR, "limit=2"))
    assert {found[name]["task"] for name in failed} == {"mini_gqa"}
    assert len(failed) == 4
    assert "none was made: LookupError: no such answer" in found[failed[0]]["reason"]
    assert shown.count("failed: ") == 1
    assert {name: count for name, count in answered(tmp_path).items() if count and "gqa" in name} == {}
    assert sum(record["status"] == "done" for record in found.values()) == 4
    assert not (tmp_path / "lmms_eval" / "canned").exists()


def test_an_error_that_hits_every_cell_ends_the_sweep_early(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [0]

    def breaks(*_: object, **__: object) -> None:
        calls[0] += 1
        raise RuntimeError(f"shapes ({calls[0]}, 8) and (8, 9) do not fit")

    sweep = small_sweep(checkpoint, tmp_path, *FOUR, "limit=8")
    with monkeypatch.context() as patch:
        patch.setattr(PrunedModel, "traced_answer", breaks)
        expected = r"answering failed alike in every one of the 4 cells tried so far .*shapes.*`adaptinfer-eval doctor`"
        with pytest.raises(SweepError, match=expected):
            run(sweep)
    assert calls[0] == 4  # once under every setting
    assert len(records(tmp_path)) == 4
    _, failed, _ = run(sweep)
    assert failed == []
    assert set(answered(tmp_path).values()) == {8}


def test_scoring_that_fails_for_every_cell_ends_the_sweep_and_answers_stay(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import adaptinfer_eval.sweep.score

    def breaks(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "results")

    sweep = small_sweep(checkpoint, tmp_path, *FOUR, "limit=2")
    with monkeypatch.context() as patch:
        patch.setattr(adaptinfer_eval.sweep.score, "_audit", breaks)  # which a canned answer does not reach
        with pytest.raises(SweepError, match="scoring failed alike in every one of the 5 cells tried so far"):
            run(sweep)
    before = answered(tmp_path)
    assert before.total() >= 5 * 2  # four of the first task, one of the second
    _, failed, _ = run(sweep)
    assert failed == []
    assert before <= answered(tmp_path)


def test_scoring_that_fails_for_one_task_only_ends_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real answers, of the task that comes first; the next start scores them first, and goes on too."""
    import adaptinfer_eval.sweep.score

    measure = adaptinfer_eval.sweep.score.measure

    def breaks(config: Any, cell: Cell, *others: Any) -> Any:
        if cell.task == "mini_gqa":
            raise LookupError("no such answer")
        return measure(config, cell, *others)

    monkeypatch.setattr(adaptinfer_eval.sweep.score, "measure", breaks)
    sweep = small_sweep(checkpoint, tmp_path, *FOUR, "limit=2")
    for _ in range(2):
        found, failed, _ = run(sweep)
        assert [found[name]["task"] for name in failed] == ["mini_gqa"] * 4
        assert sum(record["status"] == "done" for record in found.values()) == 4


def test_errors_of_one_method_only_or_of_several_kinds_end_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("cannot go on")

    monkeypatch.setattr(AdaptInfer, "score", breaks)
    _, failed, _ = run(small_sweep(checkpoint, tmp_path / "one", *FOUR, "limit=2"))
    assert failed == ["llava-adaptinfer-16-mini_gqa", "llava-adaptinfer-16-mini_scienceqa"]

    kinds = iter([KeyError, *[ValueError] * 20])

    def differs(*_: object, **__: object) -> None:
        raise next(kinds)("cannot go on")

    monkeypatch.setattr(PrunedModel, "traced_answer", differs)
    _, failed, _ = run(small_sweep(checkpoint, tmp_path / "several", *FOUR, "limit=2"))
    assert len(failed) == 8


def test_what_went_well_in_an_earlier_run_counts(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every start tries again what failed, and ends alike: with the cells listed."""
    from lmms_eval.api.task import ConfigurableTask

    def breaks(*_: object, **__: object) -> None:
        raise LookupError("cannot go on")

    sweep = small_sweep(
        checkpoint, tmp_path, "methods=vanilla,adaptinfer", "budgets=16,8", "tasks=mini_gqa,mini_scienceqa", "limit=2"
    )
    with monkeypatch.context() as patch:
        patch.setattr(AdaptInfer, "score", breaks)
        one_method = run(sweep)[1]
        assert len(one_method) == 4
        assert sorted(run(sweep)[1]) == sorted(one_method)  # of the cells that are left, every one fails alike

    for name in one_method:
        (tmp_path / "cells" / f"{name}.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(ConfigurableTask, "process_results", breaks)
        found, failed, _ = run(sweep)  # no task that is left can be scored
    assert sorted(failed) == sorted(one_method)
    assert "none was made" in found[failed[0]]["reason"]


def test_answers_of_an_earlier_run_count_too(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vanilla has answered its first question, and no cell is done."""
    sweep = small_sweep(checkpoint, tmp_path, *FOUR, "limit=2")
    run(sweep)
    for path in (*tmp_path.glob("cells/*.json"), *tmp_path.glob("journal/*.jsonl")):
        if path.name != "llava-vanilla-mini_gqa.jsonl":
            path.unlink()
    journal = tmp_path / "journal" / "llava-vanilla-mini_gqa.jsonl"
    journal.write_text("".join(journal.read_text(encoding="utf-8").splitlines(keepends=True)[:2]), encoding="utf-8")

    def breaks(*_: object, **__: object) -> None:
        raise RuntimeError("cannot go on")

    monkeypatch.setattr(PrunedModel, "traced_answer", breaks)
    assert len(run(sweep)[1]) == 8


def cell(name: str, task: str = "mini_gqa", budget: float | None = None) -> Cell:
    return Cell("llava", Setting(MethodEntry(name=name), budget), task)


ASKED = "RequestError: LlavaChat_vanilla could not answer {}: RuntimeError: sizes {} do not match"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("RuntimeError: size 133 at 0x7f5a", "RuntimeError: size 27 at 0x80ff12", True),
        ("RuntimeError: no", "ValueError: no", False),
        ("RuntimeError: no", "RuntimeError: yes", False),
        ("OSError: /data/a1/llava-vanilla-mini_gqa.json", "OSError: /data/xyz/llava-fastv-64-mini_mme.json", True),
        ("KeyError: 'vanilla of mini_gqa'", "KeyError: 'fastv-64 of mini_mme'", True),
        (
            ASKED.format("task mini_gqa, doc_id 3", "[1, 2]"),
            ASKED.format("task mini_mme, doc_id 1; task mini_mme, doc_id 12", "[4, 2, 9]"),
            True,
        ),
    ],
)
def test_the_same_error_is_the_same_whatever_it_is_about(one: str, other: str, alike: bool) -> None:
    first, second = kind_of(one, cell("vanilla")), kind_of(other, cell("fastv", "mini_mme", 64))
    assert (first == second) == alike


def test_one_question_comes_first_under_every_setting_and_none_is_asked_twice() -> None:
    cells = [cell(name, task) for task in ("a", "b") for name in ("vanilla", "fastv", "tome")]
    done: dict[str, set[int]] = {one.id: set() for one in cells}
    done[cells[2].id] = {0, 1, 2, 3}  # all that task a asks: its first question is one of task b's
    made = shards({"a": [[0, 1], [2, 3]], "b": [[5, 6]]}, cells, done)
    found = one_question_first(made, ())
    assert [(shard.task, shard.docs, [one.setting.label for one in shard.cells]) for shard in found[:2]] == [
        ("a", (0,), ["vanilla", "fastv"]),
        ("b", (5,), ["tome"]),
    ]

    def asked(of: list[Any]) -> Counter[tuple[str, int]]:
        return Counter((one.id, doc) for shard in of for one in shard.cells for doc in shard.docs)

    assert asked(found) == asked(made)
    assert set(asked(found).values()) == {1}


def test_a_setting_that_has_answers_is_asked_in_whole_batches() -> None:
    cells = [cell(name) for name in ("vanilla", "fastv")]
    made = shards({"mini_gqa": [[0, 1, 2], [3, 4]]}, cells, {cells[0].id: {0}, cells[1].id: set()})
    found = [(one.docs, [of.setting.label for of in one.cells]) for one in one_question_first(made, {"vanilla"})]
    assert found == [((0,), ["fastv"]), ((1, 2), ["vanilla"]), ((1, 2), ["fastv"]), ((3, 4), ["vanilla", "fastv"])]


def test_a_start_after_a_kill_asks_the_same_batches(checkpoint: Path, tmp_path: Path) -> None:
    """Killed between the first question and the rest of its batch in one cell, before the first in the other."""
    names = [f"llava-vanilla-mini_{task}" for task in ("gqa", "scienceqa")]
    sweep = small_sweep(checkpoint, tmp_path, "methods=vanilla", "tasks=mini_gqa,mini_scienceqa", "limit=8")

    def batches() -> list[list[list[int]]]:
        lines = [(tmp_path / "journal" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines() for name in names]
        return [[[answer["doc"] for answer in json.loads(line)["answers"]] for line in of[1:]] for of in lines]

    run(sweep)
    whole = batches()
    for name, left in zip(names, (2, 1), strict=True):  # lines, with the first, which says what it is
        (tmp_path / "cells" / f"{name}.json").unlink()
        journal = tmp_path / "journal" / f"{name}.jsonl"
        journal.write_text("".join(journal.read_text(encoding="utf-8").splitlines(True)[:left]), encoding="utf-8")
    run(sweep)
    assert batches() == whole
