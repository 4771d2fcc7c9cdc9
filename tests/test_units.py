"""Units of real mini tasks, answered with made-up texts: their score is upstream's aggregate."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from adaptinfer_eval.sweep.config import SweepError, load_config
from adaptinfer_eval.sweep.samples import units_of
from adaptinfer_eval.sweep.scores import Metric, metric_of
from adaptinfer_eval.sweep.tasks import load_tasks
from adaptinfer_eval.sweep.units import Units

MME = Metric("mme")
RIGHT: dict[str, Callable[[dict[str, Any]], str]] = {
    "mini_mme": lambda document: str(document["answer"]),
    "mini_gqa": lambda document: str(document["answer"]),
    "mini_mmbench": lambda document: str(document["answer"]),
    "mini_scienceqa": lambda document: "ABCDE"[document["answer"]],
    "mini_textvqa": lambda document: str(document["answers"][0]),
}


@pytest.fixture(scope="module")
def tasks() -> dict[str, Any]:
    return load_tasks(load_config("mini"))[1]


def answered(task: Any, right: Callable[[dict[str, Any]], str], share: float) -> list[dict[str, Any]]:
    """Samples as lmms-eval logs them, a `share` of them right, the others wrong, odd or empty."""
    rng = random.Random(0)
    samples = []
    for number, row in enumerate(task.eval_docs_no_media):
        wrong = rng.choice(["no", "A", "B", "perhaps A or B", "the cat", ""])
        document = dict(row)
        text = right(document) if rng.random() < share else wrong
        samples.append({"doc_id": number, **task.process_results(document, [text])})
    return samples


def reported(task: Any, samples: list[dict[str, Any]]) -> dict[str, float]:
    metrics = {}
    for name, aggregate in task.aggregation().items():
        values = [sample[name] for sample in samples if name in sample]
        if values:
            metrics[name] = float(aggregate(values))
    return metrics


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", list(RIGHT))
def test_score_is_upstreams_aggregate(tasks: dict[str, Any], name: str, share: float) -> None:
    samples = answered(tasks[name], RIGHT[name], share)
    metric, numbers = metric_of(name, tasks[name].config.metric_list), reported(tasks[name], samples)
    units = units_of(samples, metric, numbers)
    whole = numbers.get("mme_total_score", numbers.get("gpt_eval_score", 100 * numbers.get("exact_match", 0)))
    assert units.score() == pytest.approx(whole, rel=1e-12)
    assert share < 1 or units.score() == pytest.approx(1000 if name == "mini_mme" else 100)
    assert units_of(samples[::-1], metric, numbers).ids == units.ids
    again = Units.from_json(json.loads(json.dumps(units.to_json())))
    assert (again.ids, again.categories, again.score()) == (units.ids, units.categories, units.score())


def test_units_of_mme_are_pairs_and_of_mmbench_groups_of_copies(tasks: dict[str, Any]) -> None:
    samples = answered(tasks["mini_mme"], RIGHT["mini_mme"], 0.7)
    pairs = units_of(samples, MME, {})
    assert 2 * len(pairs.ids) == len(samples)
    assert set(pairs.values.tolist()) == {0.0, 0.5, 2.0}
    assert all(unit.startswith(f"{category}/") for unit, category in zip(pairs.ids, pairs.categories, strict=True))

    samples = answered(tasks["mini_mmbench"], RIGHT["mini_mmbench"], 1.0)
    copies = [sample["gpt_eval_score"] for sample in samples]
    wrong = next(copy for copy in copies if copy["index"] >= 1_000_000)
    wrong["prediction"] = "A" if wrong["answer"] != "A" else "B"
    groups = units_of(samples, Metric("gpt_eval_score"), {})
    assert len(groups.ids) == sum(copy["index"] < 1_000_000 for copy in copies) < len(copies)
    assert dict(zip(groups.ids, groups.values, strict=True))[str(wrong["index"] % 1_000_000)] == 0.0
    assert groups.values.sum() == len(groups.ids) - 1


def test_what_cannot_be_scored_is_refused(tasks: dict[str, Any]) -> None:
    with pytest.raises(SweepError, match=r"no number for bleu, but chrf: name another"):
        units_of([{"doc_id": 0, "chrf": 0.3}], Metric("bleu"), {"chrf": 0.3})
    with pytest.raises(SweepError, match="raise limit"):
        units_of([], Metric("bleu"), {})
    samples = answered(tasks["mini_mme"], RIGHT["mini_mme"], 0.7)
    with pytest.raises(SweepError, match="even limit"):
        units_of(samples[:3], MME, {})
    copies = [
        s for s in answered(tasks["mini_mmbench"], RIGHT["mini_mmbench"], 1.0) if s["gpt_eval_score"]["index"] > 1e6
    ]
    with pytest.raises(SweepError, match="only circular copies"):
        units_of(copies, Metric("gpt_eval_score"), {})


def test_units_are_whole_and_unique() -> None:
    with pytest.raises(ValueError, match="no id twice"):
        Units.from_json({"combine": "mean", "scale": 100, "units": [["1", "", 1.0], ["1", "", 0.0]]})
    with pytest.raises(ValueError, match="combine='median'"):
        Units.from_json({"combine": "median", "scale": 100, "units": [["1", "", 1.0]]})
