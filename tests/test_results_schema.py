"""Everything that a sweep writes is as results/schema says, and what is damaged is not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from lmms_tiny import save_tiny_llava
from referencing import Registry, Resource
from sweeps import run, small_sweep

from adaptinfer_eval.methods.method import get_method
from adaptinfer_eval.sweep.config import shipped

Sweep = tuple[Path, dict[str, Any]]


def validator(name: str) -> Draft202012Validator:
    folder = shipped("results/schema")
    assert folder is not None
    schemas = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    registry: Registry[Any] = Registry().with_resources(
        [(file, Resource.from_contents(schema)) for file, schema in schemas.items()]
    )
    return Draft202012Validator(schemas[f"{name}.json"], registry=registry)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Done, failed (a method that breaks) and refused (more tokens than there are) cells of each kind of method and
    metric."""
    folder = tmp_path_factory.mktemp("sweep")
    checkpoint = save_tiny_llava(folder / "model", layers=8)
    config = small_sweep(
        checkpoint,
        folder / "results",
        "methods=[vanilla, adaptinfer, fastv, {name: tome, budget: 30}, downsample, random]",
        "budgets=30,40",
        "tasks=mini_mme,mini_mmbench,mini_textvqa",
        "limit=4",
        "seeds=0,1",
    )

    def breaks(*_: object) -> None:
        raise RuntimeError("cannot go on")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(get_method("fastv"), "score", breaks)
        records, _, _ = run(config)
    return folder / "results", records


def lines(folder: Path) -> list[dict[str, Any]]:
    paths = sorted((folder / "journal").glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_readme_explains_every_key() -> None:
    text = (Path(__file__).parent.parent / "results" / "README.md").read_text(encoding="utf-8")
    for name in ("record", "scores", "journal"):
        for key in property_names(validator(name).schema):
            assert f"`{key}`" in text or f'"{key}":' in text, f"{key} of {name}.json"


def property_names(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(property_names, schema))
    if not isinstance(schema, dict):
        return set()
    own = set(schema.get("properties", {}))
    return own.union(*(property_names(part) for part in schema.values()))


def test_records(sweep: Sweep) -> None:
    folder, records = sweep
    assert {record["status"] for record in records.values()} == {"done", "failed", "cannot run"}
    for path in (folder / "cells").iterdir():
        validator("record").validate(json.loads(path.read_text(encoding="utf-8")))


def test_scores(sweep: Sweep) -> None:
    folder, records = sweep
    done = [record for record in records.values() if record["status"] == "done"]
    assert {path.name for path in (folder / "scores").iterdir()} == {f"{record['id']}.json" for record in done}
    for record in done:
        validator("scores").validate(json.loads((folder / record["scores"]).read_text(encoding="utf-8")))


def test_journals(sweep: Sweep) -> None:
    found = lines(sweep[0])
    answers = [answer for line in found for answer in line.get("answers", [])]
    assert any("assign" in answer for answer in answers)
    assert any("-1" in answer["kept"] for answer in answers)
    assert any("identity" in line for line in found)
    for line in found:
        validator("journal").validate(line)


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "without a score": lambda record: record.pop("score"),
    "a score that is a text": lambda record: record.update(score="64.6"),
    "another version": lambda record: record.update(schema_version=1),
    "without its data": lambda record: record.pop("data"),
    "a checksum that is too short": lambda record: record.update(code=record["code"][1:]),
    "an unknown key": lambda record: record.update(accuracy=3),
    "an unknown status": lambda record: record.update(status="maybe"),
    "an audit without its FLOPs": lambda record: record["audit"].pop("flops"),
    "a reason though it is done": lambda record: record.update(reason="why not"),
    "failed with a score": lambda record: record.update(status="failed", reason="an error"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_refused(sweep: Sweep, damage: Callable[[dict[str, Any]], Any]) -> None:
    record = copy.deepcopy(next(record for record in sweep[1].values() if record["status"] == "done"))
    assert validator("record").is_valid(record)
    damage(record)
    assert not validator("record").is_valid(record)


def test_what_cannot_run_has_a_reason_and_no_result(sweep: Sweep) -> None:
    record = next(record for record in sweep[1].values() if record["status"] == "cannot run")
    assert validator("record").is_valid(record)
    assert not validator("record").is_valid({**record, "reason": ""})
    assert not validator("record").is_valid({**record, "score": 0.0})


def test_damaged_scores_and_journal_lines_are_refused(sweep: Sweep) -> None:
    folder, records = sweep
    record = next(record for record in records.values() if record["status"] == "done")
    scores = json.loads((folder / record["scores"]).read_text(encoding="utf-8"))
    first, batch = next((line, after) for line, after in pairwise(lines(folder)) if "answers" in after)
    assert not validator("scores").is_valid({**scores, "combine": "median"})
    assert not validator("scores").is_valid({**scores, "units": [["0", "", "right"]]})
    assert not validator("scores").is_valid({**scores, "units": [["0", ""]]})
    assert not validator("journal").is_valid({**first, "journal": 1})
    assert not validator("journal").is_valid({**first, "identity": {**first["identity"], "more": 1}})
    assert not validator("journal").is_valid({**batch, "answers": []})
    for key in ("text", "entering", "kept"):
        answer = {name: value for name, value in batch["answers"][0].items() if name != key}
        assert not validator("journal").is_valid({**batch, "answers": [answer]})
