"""Sharing encoded images saves the vision tower's work and changes no answer."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lmms_tiny import save_tiny_llava
from sweeps import run, same_results, small_sweep
from tiny_models import takes_features
from transformers.models.clip.modeling_clip import CLIPVisionModel

from adaptinfer_eval.models import base
from adaptinfer_eval.sweep.config import SweepConfig


@takes_features
def test_images_are_encoded_once_and_answers_stay_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: Counter[str] = Counter()
    forward: Any = CLIPVisionModel.forward
    sharing = "sharing"

    def counted(self: Any, pixel_values: Any, *args: Any, **kwargs: Any) -> Any:
        encoded[sharing] += len(pixel_values)
        return forward(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(CLIPVisionModel, "forward", counted)
    checkpoint = save_tiny_llava(tmp_path / "tiny", layers=8)
    methods = "methods=vanilla,adaptinfer,fastv,pdrop,sparsevlm,random,downsample,foreground,other_question,tome"
    methods += ",fastervlm,divprune"

    def sweep(*overrides: str) -> SweepConfig:
        config = small_sweep(checkpoint, tmp_path / sharing, methods, "budgets=16,9", "limit=6", *overrides)
        records, failed, _ = run(config)
        assert failed == []
        assert sum(record["status"] == "done" for record in records.values()) >= 24
        return config

    shared = sweep()
    sharing = "alone"
    alone = sweep("sharing=false")
    assert same_results(shared, alone)
    assert journals(shared) == journals(alone)
    questions, pictures = 6 * 2, 2 * 2  # of two tasks that ask four questions about a picture
    # A picture is encoded once for all that is asked about it and all methods; for either budget of ToMe, once more for
    # each question. Alone, every cell encodes for every question; `other_question` does it for both of its questions.
    # The first question is asked by itself, before the rest of its batch, which is about the same picture.
    assert encoded == {"sharing": pictures + 1 + 2 * questions, "alone": 25 * questions}


def journals(sweep: SweepConfig) -> dict[str, list[list[dict[str, Any]]]]:
    """Answers, what they kept and what they cost, line by line; of the seconds alone it is not known."""
    return {
        path.name: [
            [
                {key: value for key, value in answer.items() if key != "seconds"}
                for answer in json.loads(line)["answers"]
            ]
            for line in path.read_text(encoding="utf-8").splitlines()[1:]
        ]
        for path in Path(sweep.output, "journal").glob("*.jsonl")
    }


def test_the_log_says_how_much_is_held_for_methods(tmp_path: Path) -> None:
    """AdaptInfer's first stage is after layer 0; vanilla goes on from there."""
    checkpoint = save_tiny_llava(tmp_path / "tiny", layers=8)
    config = small_sweep(checkpoint, tmp_path / "sweep", "tasks=mini_mme")
    _, failed, _ = run(config)
    log = Path(config.output, "log.txt").read_text(encoding="utf-8")
    assert not failed
    assert re.search(r"shared by methods: layers 0 to 0 of 3 prompts, \d\.\d MB", log), log


def test_a_missing_other_question_fails_only_who_asks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise ValueError("no other question")

    monkeypatch.setattr(base, "other_question", missing)
    checkpoint = save_tiny_llava(tmp_path / "tiny", layers=8)
    methods = "methods=vanilla,other_question"
    records, failed, _ = run(small_sweep(checkpoint, tmp_path / "sweep", methods, "budgets=16", "limit=2"))
    assert {record["method"] for record in records.values() if record["status"] == "done"} == {"vanilla"}
    lost = [record for record in records.values() if record["method"] == "other_question"]
    assert len(lost) == len(failed) == 2
    assert all("no other question" in record["reason"] for record in lost)
