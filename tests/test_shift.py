"""Attention shifts over samples of tasks: what is measured, that it is the same however it is batched, and resumed."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from families import ALIKE, FAMILIES
from lmms_tiny import save_tiny_llava
from rich.console import Console
from test_doctor_data import own_task

from adaptinfer_eval.analysis.asked import read_asked, spread
from adaptinfer_eval.analysis.change import change_points
from adaptinfer_eval.analysis.shift import measure_shift
from adaptinfer_eval.pruning.observer import Observer
from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.sweep.tasks import load_tasks, questions
from adaptinfer_eval.sweep.worker import load_wrapper

TASKS = ("mini_mme", "mini_scienceqa")


@pytest.fixture(scope="module", params=ALIKE)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param].save(tmp_path_factory.mktemp("tiny") / request.param, layers=8)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("tiny"), layers=8)


def measured(checkpoint: Path, folder: Path, samples: int = 5, batch_size: int = 2, **options: Any) -> dict[str, Any]:
    tasks = options.pop("tasks", TASKS)
    asked = read_asked("shift", str(checkpoint), tasks, samples, batch_size, "float32", folder, **options)
    return measure_shift(asked, Console(file=io.StringIO()))


def by_hand(checkpoint: Path, folder: Path, samples: int) -> dict[str, list[int]]:
    """The histograms from the attention that transformers gives out, one sample and one token after the other."""
    asked = read_asked("shift", str(checkpoint), TASKS, samples, 1, "float32", folder)
    config = asked.config.model_copy(update={"model_args": {"attn_implementation": "eager"}})
    _, tasks = load_tasks(config)
    model = load_wrapper(config)
    model.task_dict = {name: task.dataset for name, task in tasks.items()}
    found = {name: [0] * 8 for name in TASKS}
    for name, task in tasks.items():
        for request in spread(questions(name, task, None), samples).values():
            inputs = model.load_batch([request]).inputs
            with torch.inference_mode():
                attentions = model.model(**inputs, output_attentions=True).attentions
            (is_vision,) = inputs["input_ids"] == model.processor.image_token_id
            after = int(is_vision.nonzero().max()) + 1
            received = torch.stack([layer[0, :, after:].sum((0, 1))[is_vision] for layer in attentions], 1)
            for token in received.sum(1).argsort(descending=True)[:4]:  # of 36
                found[name][int(change_points(received[token][None].double().numpy())[0])] += 1
    return found


def test_it_is_what_the_models_own_attention_gives_for_any_batch_size(checkpoint: Path, tmp_path: Path) -> None:
    found = measured(checkpoint, tmp_path / "three", batch_size=3)
    assert found["layers"] == 8
    assert found["histograms"] == by_hand(checkpoint, tmp_path / "hand", 5)
    assert found["measured"] == dict.fromkeys(TASKS, 5)
    assert [sum(histogram) for histogram in found["histograms"].values()] == [20, 20]  # 4 of 36 tokens of 5 samples
    for batch_size in (1, 8):
        again = measured(checkpoint, tmp_path / str(batch_size), batch_size=batch_size)
        assert again == found


def test_samples_are_spread_evenly_and_none_comes_twice() -> None:
    questions = dict.fromkeys(range(100, 110), "")
    assert list(spread(questions, 3)) == [100, 103, 106]
    assert list(spread(questions, 10)) == list(spread(questions, 1000)) == list(questions)
    assert all(len(spread(questions, samples)) == samples for samples in range(1, 11))


def state(folder: Path) -> int:
    return sum(json.loads(path.read_bytes())["done"] for path in folder.glob("sums/*.json"))


def test_killed_and_resumed_it_is_the_same(llava: Path, tmp_path: Path) -> None:
    whole = measured(llava, tmp_path / "whole", samples=80)
    folder = tmp_path / "killed"
    code = "import sys, pathlib, test_shift; test_shift.measured(*map(pathlib.Path, sys.argv[1:]), samples=80)"
    command = [sys.executable, "-c", code, str(llava), str(folder)]
    process = subprocess.Popen(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL)
    while not state(folder) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL  # it had not ended by itself
    assert 0 < state(folder) < 160
    assert measured(llava, folder, samples=80, batch_size=7) == whole
    assert state(folder) == 160


def test_what_is_finished_is_not_measured_again(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(llava, tmp_path / "out", tasks=TASKS[:1])
    more = measured(llava, tmp_path / "out")  # a task is added
    assert more["histograms"][TASKS[0]] == first["histograms"][TASKS[0]]
    monkeypatch.setattr(Observer, "observe", None)
    assert measured(llava, tmp_path / "out") == more


def test_other_samples_weights_or_options_are_refused(llava: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    measured(llava, folder, samples=2)
    with pytest.raises(SweepError, match=r"samples was 2, is 3.*another folder"):
        measured(llava, folder, samples=3)
    with pytest.raises(SweepError, match=r"model_args was .*another folder"):
        measured(llava, folder, samples=2, overrides=["model_args.conv=hf"])
    with pytest.raises(
        SweepError,
        match=r"is about mini_scienceqa too: name it among the tasks, or give another folder .shift --output",
    ):
        measured(llava, folder, samples=2, tasks=TASKS[:1])
    other = shutil.copytree(llava, tmp_path / "other")
    (other / "extra.txt").write_text("edited")
    with pytest.raises(SweepError, match=r"checkpoint was .*another folder"):
        measured(other, folder, samples=2)
    path = folder / "sums" / "mini_mme.json"
    path.write_text(path.read_text(encoding="utf-8")[:-3], encoding="utf-8")
    with pytest.raises(SweepError, match=r"mini_mme.json is damaged .* delete it to measure mini_mme again"):
        measured(llava, folder, samples=2)


OWN = """
def text(doc, **_):
    content = [{{"type": "image", "url": doc["image"].convert("RGB")}}, {{"type": "text", "text": doc["question"]}}]
    return [{{"role": "user", "content": content[1:] if doc["id"] in {0} else content}}]
"""


@pytest.mark.parametrize("all_of_them", [False, True])
def test_samples_without_an_image_are_counted_and_a_task_of_such_is_refused(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_of_them: bool
) -> None:
    own_task(tmp_path, monkeypatch, "doc_to_messages: !function own.text")
    config = read_asked("shift", str(llava), ["mini_gqa"], 1).config
    documents = load_tasks(config)[1]["mini_gqa"].eval_docs_no_media
    chosen = [document["id"] for document in spread(dict(enumerate(documents)), 6).values()]
    without = chosen if all_of_them else chosen[1:3]
    (tmp_path / "tasks" / "mini" / "own.py").write_text(OWN.format(without), encoding="utf-8")
    tasks = ["mini_gqa", "mine"]
    if all_of_them:
        with pytest.raises(SweepError, match=r"none of the 6 .* of mine can be observed \(6 with no image\): choose"):
            measured(llava, tmp_path / "out", tasks=tasks, samples=6)
        return
    found = measured(llava, tmp_path / "out", tasks=tasks, samples=6, batch_size=4)
    assert found["measured"] == {"mini_gqa": 6, "mine": 4}
    assert found["left_out"] == {"mini_gqa": {}, "mine": {"no image": 2}}
    assert sum(found["histograms"]["mine"]) == 4 * 4
    assert measured(llava, tmp_path / "single", tasks=tasks, samples=6, batch_size=1) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples=0: ask for one at least"),
        ({"tasks": ["mini_mme", "mini_gqqa"]}, "unknown task 'mini_gqqa': did you mean 'mini_gqa'"),
        ({"tasks": ["mini_mme", "mini_mme"]}, "tasks names an entry twice"),
        ({"checkpoint": Path("tasks/mini/modell")}, "tasks/mini/modell could not be found"),
        ({"checkpoint": Path("tasks/mini")}, "config.json"),
        ({"overrides": ["limit=3"]}, "only model_args.NAME=... and gpus_per_worker=N can be given like this"),
        ({"overrides": ["model_args.batch_size=3"]}, "give batch_size instead"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_loaded(
    llava: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SweepError, match=message):
        measured(**{"checkpoint": llava, "folder": tmp_path / "out", **changes})
    assert not (tmp_path / "out").exists()
