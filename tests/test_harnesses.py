"""The second harness, as far as it needs no VLMEvalKit: names, batches, files, and what both harnesses disagree on."""

from __future__ import annotations

import base64
import io
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import PIL.Image
import pytest
from sweep_folder import record

from adaptinfer_eval.backbones import FAMILIES
from adaptinfer_eval.methods.method import available_methods
from adaptinfer_eval.report.harnesses import compare_harnesses, harness_table
from adaptinfer_eval.sweep.config import SweepError, load_config, shipped
from adaptinfer_eval.vlmevalkit import DATA
from adaptinfer_eval.vlmevalkit.answerer import Batcher, Question
from adaptinfer_eval.vlmevalkit.names import model_name, read_name
from adaptinfer_eval.vlmevalkit.run import scored
from adaptinfer_eval.vlmevalkit.tsv import write_tsv


def question(number: int) -> Question:
    return Question([("user", [str(number)])], {})


def test_every_name_is_read_as_what_it_was_made_of() -> None:
    cells = list(itertools.product(available_methods(), FAMILIES, (None, 64.0, 0.25)))
    names = {model_name(*cell): cell for cell in cells}
    assert len(names) == len(cells)
    assert all(read_name(name) == cell for name, cell in names.items())
    assert read_name("llava_v1.5_7b") is None
    assert read_name("adaptinfer_llava_no") is None


def test_a_name_says_all_that_answers_depend_on() -> None:
    """And nothing else: cells that differ have folders of their own, whatever they were answered with."""
    plain = model_name("fastv", "llava", 64)
    same = ({"batch_size": 8}, {"workers": 2}, {"device": "cpu"}, {"prompts": "papers"})
    other = ({"conv": "hf"}, {"pretrained": "mine/model"}, {"prompts": "kit"}, {"schedule": "1:47"})
    assert {model_name("fastv", "llava", 64, arguments) for arguments in same} == {plain}
    assert len({plain, *(model_name("fastv", "llava", 64, arguments) for arguments in other)}) == 5
    assert "/" not in model_name("fastv", "llava", 64, {"pretrained": "mine/model"})


def test_each_gets_the_answer_to_its_own_question_and_batches_are_full() -> None:
    sizes: list[int] = []

    def answer(questions: Sequence[Question]) -> list[str]:
        sizes.append(len(questions))
        return [f"answer {one.messages[0][1][0]}" for one in questions]

    batcher = Batcher([answer], 8)
    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda number: batcher.ask(question(number)), range(40)))
    assert found == [f"answer {number}" for number in range(40)]
    assert max(sizes) == 8
    assert sum(sizes) == 40


def test_what_goes_wrong_is_raised_to_all_who_ask_and_nobody_waits() -> None:
    def answer(questions: Sequence[Question]) -> list[str]:
        raise ValueError("too long")

    batcher = Batcher([answer], 2)
    for number in range(3):
        with pytest.raises(ValueError, match="too long"):
            batcher.ask(question(number))


def test_a_closed_batcher_lets_go_of_its_models() -> None:
    batcher = Batcher([lambda _: [], lambda _: []], 4)
    batcher.close()
    for thread in batcher.threads:
        thread.join(10)
    assert not any(map(threading.Thread.is_alive, batcher.threads))


def test_files_for_vlmevalkit_hold_the_same_questions_and_pixels(tmp_path: Path) -> None:
    written = write_tsv(tmp_path / "one")
    assert [path.stem for path in written] == [name for task, name in DATA.items() if task.startswith("mini_")]
    again = write_tsv(tmp_path / "two")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]
    for task, name in DATA.items():
        source = shipped(f"tasks/mini/data/{task.removeprefix('mini_')}.parquet")
        if not task.startswith("mini_") or source is None:
            continue
        ours, theirs = pd.read_parquet(source), pd.read_csv(tmp_path / "one" / f"{name}.tsv", sep="\t")
        assert list(theirs["question"]) == list(ours["question"])
        assert theirs["index"].is_unique
        for place in (0, len(ours) - 1):
            pixels = [
                PIL.Image.open(io.BytesIO(data)).tobytes()
                for data in (ours["image"][place]["bytes"], base64.b64decode(theirs["image"][place]))
            ]
            assert pixels[0] == pixels[1]
    circular = pd.read_csv(tmp_path / "one" / "MINI_MMBench.tsv", sep="\t")
    assert set((circular["index"] % 1_000_000).value_counts()) == {4}


@pytest.mark.parametrize(
    ("found", "there"),
    [
        (None, False),
        (True, False),
        ({}, False),
        ({"Overall": float("nan")}, False),
        ({"split": "dev"}, False),
        (pd.DataFrame({"split": ["dev"], "Overall": [0.5]}), True),
        ({"acc": {"Overall": 3}}, True),
    ],
)
def test_a_score_is_a_number(found: Any, there: bool) -> None:
    assert scored(found) == there


def test_a_sweep_through_vlmevalkit_has_a_folder_of_its_own() -> None:
    folders = {
        load_config("mini", overrides).output
        for overrides in ([], ["harness=vlmevalkit"], ["harness=vlmevalkit", "prompts=kit"])
    }
    assert len(folders) == 3
    with pytest.raises(SweepError, match="goes with harness=vlmevalkit"):
        load_config("mini", ["prompts=kit"])


@pytest.mark.skipif(find_spec("vlmeval") is not None, reason="VLMEvalKit is installed here")
@pytest.mark.parametrize("command", ["vlmevalkit --method vanilla -- --data MME", "plan mini harness=vlmevalkit"])
def test_what_is_not_installed_is_named(command: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "adaptinfer_eval.cli", *command.split()], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "VLMEvalKit (package vlmeval) is not installed: pip install 'adaptinfer-eval[vlmevalkit]'" in run.stderr
    assert "Traceback" not in run.stderr


def folder(path: Path, harness: str, task: str, samples: Sequence[dict[str, Any]], rights: Sequence[float]) -> Path:
    """A finished sweep of one cell."""
    versions = {"lmms-eval": "0.7.3"} | ({"ms-vlmeval": "0.0.20"} if harness == "vlmevalkit" else {})
    score = 100 * sum(rights) / len(rights)
    cell = record("fastv", 64, task, score, harness=harness, prompts="papers", versions=versions, dtype="float32")
    cell |= {"answers": "samples.jsonl", "questions": len(samples)}
    for name, text in {
        f"cells/{cell['id']}.json": json.dumps(cell),
        "samples.jsonl": "".join(json.dumps({"doc_id": doc, **one}) + "\n" for doc, one in enumerate(samples)),
        cell["scores"]: json.dumps({"rights": list(enumerate(rights))}),
    }.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text, encoding="utf-8")
    return path


def test_disagreement_is_counted_by_the_first_thing_that_differs(tmp_path: Path) -> None:
    ocr = "\nReference OCR token: A, B\nAnswer."
    ours = [
        {"input": f"What is 0?{ocr}", "filtered_resps": "a"},  # asked otherwise, answered otherwise
        {"input": "What is 1?\nAnswer.", "filtered_resps": "b"},  # asked alike, answered otherwise
        {"input": "What is 2?\nAnswer.", "filtered_resps": "c"},  # answered alike, scored otherwise
        {"input": "What is 3?\nAnswer.", "filtered_resps": "d"},  # answered otherwise, counted alike
        {"input": "Only here\nAnswer.", "filtered_resps": "e"},
    ]
    theirs = [  # in another order
        {"input": (asks := f"What is {number}?\nAnswer."), "asks": asks, "filtered_resps": text, "id": []}
        for number, text in ((3, "x"), (2, "c"), (1, "x"), (0, "x"))
    ]
    one = folder(tmp_path / "ours", "lmms-eval", "mini_textvqa", ours, [1.0, 1.0, 1.0, 0.0, 1.0])
    for kind, cause in (("VQA", "metric"), ("MCQ", "extraction")):
        typed = [{**sample, "type": kind} for sample in theirs]
        other = folder(tmp_path / kind, "vlmevalkit", "mini_textvqa", typed, [0.0, 0.0, 0.0, 0.0])
        (compared,) = compare_harnesses(other, one)
        assert compared.questions == 4
        assert compared.causes == {"prompt": 1, "picture": 1, cause: 1}
        assert "ms-vlmeval 0.0.20" in harness_table([compared], "md")
        assert harness_table([compared], "csv").splitlines()[1].startswith("TextVQA,FastV,64,80.0,0.0,-80.0,4,3,1,1,")
    with pytest.raises(SweepError, match="run one of them with harness=vlmevalkit"):
        compare_harnesses(one, one)


def test_circular_copies_count_with_their_question(tmp_path: Path) -> None:
    def mmbench(index: int, text: str) -> dict[str, Any]:
        return {"input": f"Which? {index}", "filtered_resps": text, "gpt_eval_score": {"index": index}}

    def kit(index: int, text: str) -> dict[str, Any]:
        asked = {"input": f"Which? {index}", "asks": f"Which? {index}", "filtered_resps": text}
        return {**asked, "type": "MCQ", "id": [index]}

    ours = [mmbench(0, "A"), mmbench(1_000_000, "B")]
    theirs = [kit(0, "A"), kit(1_000_000, "C")]
    paths = [
        folder(tmp_path / name, name, "mini_mmbench", samples, rights)
        for name, samples, rights in (("lmms-eval", ours, [1.0]), ("vlmevalkit", theirs, [0.0]))
    ]
    (compared,) = compare_harnesses(*paths)
    assert compared.questions == 1
    assert compared.causes == {"picture": 1}, "the copy was asked alike and answered otherwise"
