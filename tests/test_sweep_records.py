"""Records: written whole or not at all, taken up again only by the same measurement."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from adaptinfer_eval.sweep.cells import Cell, Setting
from adaptinfer_eval.sweep.config import MethodEntry, SweepConfig, SweepError, load_config
from adaptinfer_eval.sweep.records import (
    check_folder,
    checkpoint_digest,
    digest,
    identity,
    is_finished,
    read_records,
    record_path,
    write_record,
    write_text,
)

CELL = Cell("llava", Setting(MethodEntry(name="fastv"), 64, "leaving"), "mini_mme")


def asked(**changes: Any) -> dict[str, Any]:
    config: SweepConfig = load_config("mini", [f"{key}={value}" for key, value in changes.items()])
    return identity(config, CELL, "1:47", "checkpoint", "data")


def test_a_record_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    write_text(path, "first")

    def full_disk(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "second")
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["record.json"]


def test_only_a_measured_cell_is_finished(tmp_path: Path) -> None:
    wanted = asked()
    assert not is_finished(tmp_path, CELL, wanted)
    for status, finished in (("failed", False), ("cannot run", False), ("done", True)):
        write_record(tmp_path, CELL, {"status": status, **wanted})
        assert is_finished(tmp_path, CELL, wanted) is finished


@pytest.mark.parametrize("change", [{"limit": 7}, {"seed": 3}, {"dtype": "float16"}, {"model_args": "{conv: hf}"}])
def test_another_measurement_under_the_same_name_is_an_error(tmp_path: Path, change: dict[str, Any]) -> None:
    write_record(tmp_path, CELL, {"status": "done", **asked()})
    with pytest.raises(SweepError, match=rf"{next(iter(change))} was .* another folder"):
        is_finished(tmp_path, CELL, asked(**change))


def test_other_cells_of_another_sweep_are_not_mixed_with_this_one(tmp_path: Path) -> None:
    other = Cell("llava", Setting(MethodEntry(name="vanilla")), "mini_gqa")
    write_record(tmp_path, other, {"status": "done", **asked(dtype="float16"), "method": "vanilla"})
    with pytest.raises(SweepError, match="dtype was 'float16', is 'float32'"):
        check_folder(tmp_path, asked())
    check_folder(tmp_path, asked(dtype="float16"))


def test_how_a_sweep_is_spread_does_not_make_it_another_one() -> None:
    assert asked(batch_size=3, workers=7, output="elsewhere") == asked()


def test_checkpoints_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    first = checkpoint_digest(str(tmp_path))
    weights.write_bytes(b"two")
    assert checkpoint_digest(str(tmp_path)) != first
    assert checkpoint_digest("some/model", "v2") == "some/model@v2"


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_records_of_another_schema_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="run a sweep with output="):
        read_records(tmp_path)
    write_record(tmp_path, CELL, {"status": "done", **asked()})
    assert read_records(tmp_path)[0]["method"] == "fastv"
    record_path(tmp_path, CELL).write_text(json.dumps({"schema_version": 0}))
    with pytest.raises(SweepError, match="schema version 0"):
        read_records(tmp_path)
