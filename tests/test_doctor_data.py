"""The doctor says of checkpoints and data sets what is missing and what to do, and downloads nothing."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from findings import found, mini

from adaptinfer_eval.doctor import hub
from adaptinfer_eval.doctor.checkpoint import checkpoint
from adaptinfer_eval.doctor.finding import found_by
from adaptinfer_eval.doctor.machine import disk
from adaptinfer_eval.doctor.tasks import tasks
from adaptinfer_eval.sweep.config import SweepConfig, load_config, shipped


def own_task(folder: Path, monkeypatch: pytest.MonkeyPatch, yaml: str) -> SweepConfig:
    """A sweep of the task `mine`, which asks the questions of mini_gqa but for what `yaml` says."""
    there = shipped("tasks")
    assert there is not None
    shutil.copytree(there, folder / "tasks", ignore=shutil.ignore_patterns("model*", "make", "*.md"))
    (folder / "tasks" / "mini" / "mine.yaml").write_text(f"include: mini_gqa.yaml\ntask: mine\n{yaml}\n")
    (folder / "tasks" / "mini" / "broken.py").write_text("def raises(*_):\n    raise LookupError('no such answer')\n")
    monkeypatch.setattr("adaptinfer_eval.sweep.tasks.shipped", lambda name: folder / name)
    return load_config("mini", ["tasks=mini_gqa,mine"])


def test_a_task_whose_scoring_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = own_task(tmp_path, monkeypatch, "process_results: !function broken.raises")
    lines = found(tasks(sweep, tmp_path))
    assert lines["data mine"].verdict == lines["scoring mini_gqa"].verdict == "ok"
    assert lines["scoring mine"].verdict == "fails"
    assert lines["scoring mine"].text == "LookupError: no such answer"


def test_a_task_whose_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = "dataset_kwargs: {data_files: {test: data/gone.parquet}}"
    lines = found(tasks(own_task(tmp_path, monkeypatch, data), tmp_path))
    assert lines["data mine"].verdict == "fails"
    assert "gone.parquet" in lines["data mine"].text
    assert lines["data mini_gqa"].verdict == "ok"


def test_data_for_which_one_has_to_be_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    data = "dataset_path: parquet\ndataset_kwargs: {data_files: {test: data/gqa.parquet}, token: true}"
    lines = found(tasks(own_task(tmp_path, monkeypatch, data), tmp_path))
    assert lines["data mine"].verdict == "fails"
    assert lines["data mine"].remedy == "hf auth login"


class Hub(BaseHTTPRequestHandler):
    """Knows two repositories, one of them gated, and one that it never answers about."""

    def do_GET(self) -> None:
        kind, name = self.path.split("?")[0].removeprefix("/api/").split("/revision/")[0].split("/", 1)
        if "slow" in name:
            self.server.ends.wait(30)  # type: ignore[attr-defined]
        status = {"us/open": 200, "us/gated": 403}.get(name, 404)
        files = [{"rfilename": "model.safetensors", "size": 3_000_000_000}, {"rfilename": "README.md", "size": 7}]
        body = {"id": name, "siblings": files} if status == 200 else {"error": kind}
        self.send_response(status)
        if status != 200:
            self.send_header("X-Error-Code", "GatedRepo" if status == 403 else "RepoNotFound")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def local_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.ends = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield
    server.ends.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("repository", "verdict", "text", "remedy"),
    [
        ("us/open", "warning", "is not here; the run will download 3 GB", "hf download us/open"),
        ("us/gated", "fails", "granted access", "hf auth login"),
        ("us/unknown", "fails", "neither here nor on the hub", "spelling"),
        ("us/slow", "fails", "cannot be reached", "HF_ENDPOINT"),
        ("a/b/c", "fails", "there is no folder a/b/c", "spelling"),
    ],
)
def test_a_checkpoint_that_is_not_here(
    local_hub: None, monkeypatch: pytest.MonkeyPatch, repository: str, verdict: str, text: str, remedy: str
) -> None:
    if repository == "us/slow":
        monkeypatch.setattr(hub, "SECONDS", 0.5)
    finding = next(iter(checkpoint(mini(f"pretrained={repository}"))))
    assert (finding.name, finding.verdict) == ("checkpoint", verdict)
    assert text in finding.text
    assert remedy in finding.remedy


@pytest.mark.parametrize(("repository", "verdict"), [("us/open", "warning"), ("us/gated", "fails")])
def test_data_that_are_not_here_are_not_downloaded(
    local_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: str, verdict: str
) -> None:
    data = f"dataset_path: {repository}\ndataset_kwargs: {{}}"
    lines = found(tasks(own_task(tmp_path, monkeypatch, data), tmp_path))
    assert lines["data mine"].verdict == verdict, lines["data mine"].text
    assert repository in lines["data mine"].text
    assert lines["scoring mine"].verdict == "warning"


def test_data_of_the_hub_that_are_here_are_scored_without_it(
    local_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the cache of `datasets` as a download leaves it there."""
    made = datasets.load_dataset("parquet", data_files=str(shipped("tasks/mini/data/gqa.parquet")), cache_dir=tmp_path)
    (arrow,) = made["train"].cache_files
    there = tmp_path / "cache" / "us___unknown" / "default" / "0.0.0" / "0123"
    shutil.copytree(Path(arrow["filename"]).parent, there)
    (there / "parquet-train.arrow").rename(there / "unknown-train.arrow")
    info = json.loads((there / "dataset_info.json").read_text())
    (there / "dataset_info.json").write_text(json.dumps(info | {"dataset_name": "unknown", "config_name": "default"}))
    where = "lmms_eval.api.task._resolve_hf_datasets_cache_dir"  # which remembers what the environment said first
    monkeypatch.setattr(where, lambda: str(tmp_path / "cache"))
    data = "dataset_path: us/unknown\ndataset_kwargs: {}\ntest_split: train"
    lines = found(tasks(own_task(tmp_path, monkeypatch, data), tmp_path))
    assert (lines["data mine"].verdict, lines["scoring mine"].verdict) == ("ok", "ok")


def test_offline_says_that_the_hub_may_not_be_asked(local_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (finding,) = checkpoint(mini("pretrained=us/open"))
    assert finding.verdict == "fails"
    assert "HF_HUB_OFFLINE" in finding.text
    assert "HF_HOME" in finding.remedy


def test_a_folder_that_is_no_checkpoint_or_not_all_of_one(tmp_path: Path) -> None:
    (finding,) = checkpoint(mini(f"pretrained={tmp_path}"))
    assert finding.verdict == "fails"
    assert "lacks config.json, model.safetensors" in finding.text
    whole = Path(mini().checkpoint)
    shutil.copytree(whole, tmp_path / "part")
    (tmp_path / "part" / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "part" / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(whole / "model.safetensors", tmp_path / "part" / "model-1.safetensors")
    (finding,) = checkpoint(mini(f"pretrained={tmp_path / 'part'}"))
    assert finding.text.endswith("lacks model-2.safetensors")
    shutil.copy(whole / "model.safetensors", tmp_path / "part" / "model-2.safetensors")
    (tmp_path / "part" / "tokenizer.json").write_text("{")
    assert "does not load" in next(iter(checkpoint(mini(f"pretrained={tmp_path / 'part'}")))).text


def test_a_checkpoint_of_another_family_is_named() -> None:
    finding = next(iter(checkpoint(mini("backbone=internvl"))))
    assert finding.verdict == "fails"
    assert "was asked for as internvl: use backbone=llava" in finding.text


def test_a_task_that_is_none_is_a_line(tmp_path: Path) -> None:
    config = mini().model_copy(update={"tasks": ("adaptinfer_mini",)})
    (finding,) = found_by("tasks", lambda: tasks(config, tmp_path))
    assert finding.verdict == "fails"
    assert finding.text == "tasks: adaptinfer_mini is a group; list its tasks"


def test_results_under_a_file_are_a_failing_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        (finding,) = disk(mini(f"output={output}"))
        assert (finding.verdict, "file is a file" in finding.text) == ("fails", True)
