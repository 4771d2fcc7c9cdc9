"""Records: written whole or not at all, taken up again only by the same measurement, whose identity is its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import PIL.Image
import pytest
from datasets import Dataset, Features, Image, Sequence, Value
from lmms_tiny import save_tiny_llava

from adaptinfer_eval.models.requests import Request
from adaptinfer_eval.sweep.cells import Cell, Setting, settings
from adaptinfer_eval.sweep.config import MethodEntry, SweepConfig, SweepError, load_config
from adaptinfer_eval.sweep.identity import Sources, checkpoint_digest, code_digest, data_digest, digest, identity
from adaptinfer_eval.sweep.jobs import open_results
from adaptinfer_eval.sweep.records import read_records, record_path, write_record
from adaptinfer_eval.sweep.tasks import load_tasks, questions

SOURCES = Sources("checkpoint", "engine", {"torch": "2.15"}, {"mini_mme": "data"}, {"fastv": "code"})
CELL = Cell("llava", Setting(MethodEntry(name="fastv"), 64, "leaving", "image"), "mini_mme")
COUNTING = {"count": "leaving", "per": "image"}


def asked(**changes: Any) -> dict[str, Any]:
    config: SweepConfig = load_config("mini", [f"{key}={value}" for key, value in changes.items()])
    return {"id": CELL.id, **identity(config, CELL, "1:47", SOURCES)}


def is_finished(folder: Path, wanted: dict[str, Any]) -> bool:
    return CELL.id in open_results(folder, {CELL.id: wanted}, COUNTING).finished


def check_folder(folder: Path, wanted: dict[str, Any], counting: dict[str, str] = COUNTING) -> None:
    open_results(folder, {"another": wanted}, counting)


def test_only_a_measured_cell_is_finished(tmp_path: Path) -> None:
    wanted = asked()
    assert not is_finished(tmp_path, wanted)
    for status, finished in (("failed", False), ("cannot run", True), ("done", True)):
        write_record(tmp_path, CELL, {"status": status, **wanted})
        assert is_finished(tmp_path, wanted) is finished
    write_record(tmp_path, CELL, {"status": "cannot run", **wanted, "engine": "older"})
    assert is_finished(tmp_path, wanted) is False  # a newer engine may be able to


@pytest.mark.parametrize("change", [{"limit": 7}, {"seeds": 3}, {"dtype": "float16"}, {"model_args": "{conv: hf}"}])
def test_another_measurement_under_the_same_name_is_an_error(tmp_path: Path, change: dict[str, Any]) -> None:
    write_record(tmp_path, CELL, {"status": "done", **asked()})
    name = next(iter(change)).replace("seeds", "seed")
    with pytest.raises(SweepError, match=rf"{name} was .* another folder"):
        is_finished(tmp_path, asked(**change))


def test_other_cells_of_another_sweep_are_not_mixed_with_this_one(tmp_path: Path) -> None:
    other = Cell("llava", Setting(MethodEntry(name="vanilla")), "mini_gqa")
    write_record(tmp_path, other, {"status": "done", **asked(dtype="float16"), "id": other.id})
    with pytest.raises(SweepError, match="dtype was 'float16', is 'float32'"):
        check_folder(tmp_path, asked())
    check_folder(tmp_path, asked(dtype="float16"))


def test_budgets_counted_otherwise_are_not_mixed_in_a_folder(tmp_path: Path) -> None:
    write_record(tmp_path, CELL, {"status": "done", **asked()})
    check_folder(tmp_path, asked())
    with pytest.raises(SweepError, match="count was 'leaving', is 'entering'"):
        check_folder(tmp_path, asked(), {"count": "entering", "per": "image"})
    with pytest.raises(SweepError, match="per was 'image', is 'prompt'"):
        check_folder(tmp_path, asked(), {"count": "leaving", "per": "prompt"})


def test_a_method_may_say_itself_what_its_budget_counts(tmp_path: Path) -> None:
    config = load_config("mini", ["methods=[{name: fastv, count: entering}]", "budgets=64"])
    cell = Cell("llava", settings(config)[0], "mini_mme")
    own = identity(config, cell, "1:30", SOURCES)
    assert (own["budget"], own["count"], own["per"]) == (64, "entering", "image")
    write_record(tmp_path, cell, {"id": cell.id, "status": "done", **own})
    check_folder(tmp_path, asked())


def test_failures_that_nobody_asks_for_any_more_are_forgotten(tmp_path: Path) -> None:
    for status, there in (("done", True), ("failed", False), ("cannot run", False)):
        write_record(tmp_path, CELL, {"status": status, **asked()})
        open_results(tmp_path, {CELL.id: asked()}, COUNTING)
        assert record_path(tmp_path, CELL.id).exists()
        open_results(tmp_path, {"another": asked()}, COUNTING)
        assert record_path(tmp_path, CELL.id).exists() is there


def test_how_a_sweep_is_spread_does_not_make_it_another_one() -> None:
    assert asked(batch_size=3, workers=7, sharing=False, pool="ray", output="elsewhere") == asked()


def test_checkpoints_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    first = checkpoint_digest(str(tmp_path))
    weights.write_bytes(b"two")
    assert checkpoint_digest(str(tmp_path)) != first


def test_a_hub_checkpoint_is_the_commit_that_its_revision_stands_for(
    tmp_path: Path,
) -> None:
    """On a cache in the hub's layout, as a download leaves it."""
    cached = tmp_path / "models--some--model"
    commits = {"main": "a" * 40, "v2": "b" * 40}
    for revision, commit in commits.items():
        save_tiny_llava(cached / "snapshots" / commit)
        (cached / "refs").mkdir(exist_ok=True)
        (cached / "refs" / revision).write_text(commit)
    program = """
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.identity import checkpoint_digest
print(checkpoint_digest("some/model"), checkpoint_digest("some/model", "v2"))
try:
    checkpoint_digest("no/where")
except SweepError as error:
    print(error)
"""
    offline = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    shown = subprocess.run([sys.executable, "-c", program], env=offline, capture_output=True, text=True, check=True)
    digests, missing = shown.stdout.split("\n", 1)
    assert digests.split() == [f"some/model@{commit}" for commit in commits.values()]
    assert "pretrained: no/where could not be found" in missing


def test_the_code_of_methods_is_told_apart(tmp_path: Path) -> None:
    assert code_digest("fastv") != code_digest("pdrop")
    assert code_digest("fastv") == code_digest("fastv")


def test_data_are_told_apart_by_prompts_and_images() -> None:
    config = load_config("mini", ["tasks=mini_gqa,mini_textvqa"])
    _, tasks = load_tasks(config)
    gqa, textvqa = ((task, questions(name, task, 4)) for name, task in tasks.items())
    first = data_digest(*gqa)
    assert first != data_digest(*textvqa)
    assert first == data_digest(*gqa)
    assert first != data_digest(gqa[0], questions("mini_gqa", gqa[0], 5))
    reworded = {doc: replace(request, context=f"{request.context}!") for doc, request in gqa[1].items()}
    assert first != data_digest(gqa[0], reworded)
    dataset, split = gqa[0].dataset, gqa[0].config.test_split
    flipped = dataset[split].map(lambda row: {"image": row["image"].transpose(0)})
    dataset[split] = flipped
    assert first != data_digest(*gqa)


def test_images_are_in_the_fingerprint_wherever_they_stand() -> None:
    def task(colour: str) -> Any:
        pictures = [[PIL.Image.new("RGB", (4, 4), colour)]]
        features = Features({"question": Value("string"), "pictures": Sequence(Image())})
        documents = Dataset.from_dict({"question": ["Same?"], "pictures": pictures}, features=features)
        return SimpleNamespace(eval_docs=documents, eval_docs_no_media=documents.remove_columns("pictures"))

    request = Request(0, "Same?", (), "own", 0, "test", {})
    assert data_digest(task("black"), {0: request}) == data_digest(task("black"), {0: request})
    assert data_digest(task("black"), {0: request}) != data_digest(task("white"), {0: request})


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


MEASURED = {"score": 1.0, "scores": "", "audit": {}, "questions": 1, "questions_available": 1, "reason": ""}


def test_records_of_another_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="run a sweep with output="):
        read_records(tmp_path)
    write_record(tmp_path, CELL, {"status": "done", **asked(), **MEASURED})
    assert read_records(tmp_path)[0]["method"] == "fastv"
    write_record(tmp_path, CELL, {"status": "done", **asked(), **MEASURED, "schema_version": 0})
    with pytest.raises(SweepError, match="schema version 0"):
        read_records(tmp_path)
    older = {key: value for key, value in asked().items() if key not in ("per", "options")}
    write_record(tmp_path, CELL, {"status": "done", **older, "schema_version": 0})
    with pytest.raises(SweepError, match="schema_version was 0"):
        check_folder(tmp_path, asked())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b'{"id": "', "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b'{"score": NaN}', r"is damaged \(NaN is no number\)"),
        (b"[]", "is not the record that its name says"),
        (b'"done"', "is not the record that its name says"),
        (b'{"status": "failed"}', "is not the record that its name says"),
        (b'{"id": "another", "status": "failed"}', "is not the record that its name says"),
    ],
)
def test_what_is_no_record_is_named_and_stays(tmp_path: Path, content: bytes, message: str) -> None:
    path = record_path(tmp_path, CELL.id)
    path.parent.mkdir()
    path.write_bytes(content)
    for read in (
        lambda: read_records(tmp_path),
        lambda: is_finished(tmp_path, asked()),
        lambda: check_folder(tmp_path, asked()),
    ):
        with pytest.raises(SweepError, match=rf"{path.name} {message}.*: move it out of that folder"):
            read()
    assert path.read_bytes() == content


def test_a_record_without_what_tables_need_is_named(tmp_path: Path) -> None:
    write_record(tmp_path, CELL, {"status": "done", **asked(), **MEASURED})
    for key in ("score", "options"):
        record = {name: value for name, value in {**asked(), **MEASURED}.items() if name != key}
        write_record(tmp_path, CELL, {"status": "done", **record})
        with pytest.raises(SweepError, match=rf"{CELL.id}.json lacks {key}: move it"):
            read_records(tmp_path)


def test_a_copy_of_a_record_is_no_second_measurement(tmp_path: Path) -> None:
    write_record(tmp_path, CELL, {"status": "done", **asked(), **MEASURED})
    path = record_path(tmp_path, CELL.id)
    path.with_name(f"{CELL.id} (copy).json").write_bytes(path.read_bytes())
    with pytest.raises(SweepError, match=r"\(copy\)\.json is not the record"):
        read_records(tmp_path)
