"""Any task of lmms-eval has a score: found by its own metric list, and made of what upstream gives to each answer."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lmms_eval
import numpy as np
import pytest
from sweep_folder import record

from adaptinfer_eval.report.bootstrap import interval, resampled_scores
from adaptinfer_eval.report.layouts import Layout
from adaptinfer_eval.report.table import make_table
from adaptinfer_eval.sweep.config import SweepError, load_config, shipped
from adaptinfer_eval.sweep.samples import rights_of, units_of
from adaptinfer_eval.sweep.score import _counting_from_zero
from adaptinfer_eval.sweep.scores import Metric, metric_of
from adaptinfer_eval.sweep.task_files import description, tasks_in
from adaptinfer_eval.sweep.tasks import check_tasks
from adaptinfer_eval.sweep.units import Units

UPSTREAM = tasks_in(Path(lmms_eval.__file__).parent / "tasks")
SCORES = {
    "ai2d": "exact_match",
    "chartqa": "relaxed_overall",
    "docvqa_val": "anls",
    "pope": "pope_f1_score",
    "ocrbench": "ocrbench_accuracy",
    "mmstar": "average",
    "gqa": "exact_match",
    "mmbench_cn_dev": "gpt_eval_score",
    "vqav2_val": "exact_match",
    "vizwiz_vqa_val": "exact_match",
    "seedbench": "seed_all",
    "mme": "mme",
    "textvqa_val": "exact_match",
    "nocaps_val": "nocaps_CIDEr",
    "videomme": "videomme_perception_score",
}


def listed(task: str) -> Any:
    return description(UPSTREAM[task])["metric_list"]


@pytest.mark.parametrize(("task", "score"), SCORES.items())
def test_the_score_is_found_by_the_tasks_own_list(task: str, score: str) -> None:
    assert metric_of(task, listed(task)) == Metric(score)


def test_most_tasks_of_lmms_eval_need_no_word_on_their_score() -> None:
    told = [description(path).get("metric_list") for path in UPSTREAM.values()]
    whole = [listed for listed in told if isinstance(listed, list) and all(isinstance(one, dict) for one in listed)]
    assert sum(is_settled(listed) for listed in whole) > 1000


def is_settled(metrics: Any) -> bool:
    try:
        return bool(metric_of("task", metrics))
    except SweepError:
        return False


def test_a_sweep_says_which_of_several_it_means() -> None:
    with pytest.raises(SweepError, match=r"several metrics \(IoU, parsed\): say which .* metrics={places: IoU}"):
        metric_of("places", [{"metric": "IoU"}, {"metric": "parsed"}])
    lower: list[dict[str, Any]] = [{"metric": "IoU"}, {"metric": "error", "higher_is_better": False}]
    assert metric_of("places", lower, "error") == Metric("error", higher_is_better=False)
    with pytest.raises(SweepError, match="places has no metric 'errors', it has IoU, error"):
        metric_of("places", lower, "errors")
    with pytest.raises(SweepError, match=r"only answers for a server .*take its open split"):
        check_tasks(load_config("mini", ["tasks=vqav2_test"]))
    with pytest.raises(SweepError, match=r"metrics\.gqa is none of the tasks"):
        load_config("mini", ["metrics={gqa: exact_match}"])
    check_tasks(load_config("mini", ["tasks=[mini_gqa, pope, ocrbench]", "metrics={pope: pope_accuracy}"]))


def chart(number: int) -> dict[str, Any]:
    return {"type": "human_test" if number % 3 else "augmented", "answer": str(number + 1)}


def yes_or_no(number: int) -> dict[str, Any]:
    return {"question_id": number, "answer": "yes" if number % 3 else "no"}


def letter(number: int) -> dict[str, Any]:
    kind = f"kind {number % 2 + (number % 5 == 0)}"
    return {"answer": "ABCD"[number % 4], "index": number, "category": f"kind {number % 2}", "l2_category": kind}


def seed(number: int) -> dict[str, Any]:
    return {"answer": "ABCD"[number % 4], "data_type": "video" if number % 4 == 1 else "image", "question_id": number}


MADE: dict[str, tuple[str, str, str, Callable[[int], dict[str, Any]]]] = {
    "chartqa": ("chartqa.utils", "chartqa_process_results", "", chart),
    "pope": ("pope.utils", "pope_process_results", "pope_aggregate_f1_score", yes_or_no),
    "mmstar": ("mmstar.utils", "mmstar_process_results", "mmstar_aggregate_results", letter),
    "seedbench": ("seedbench.utils", "seed_process_result", "seed_aggregation_result", seed),
}


@pytest.mark.parametrize("task", MADE)
def test_the_score_made_of_units_is_the_one_that_upstream_reports(task: str) -> None:
    module, process, aggregate, document = MADE[task]
    upstream = importlib.import_module(f"lmms_eval.tasks.{module}")
    metric = metric_of(task, listed(task))
    samples = []
    for number in range(40):
        made = document(number)
        answer = made["answer"] if number % 7 < 4 else {"yes": "no", "no": "yes"}.get(made["answer"], "Z")
        samples.append({"doc_id": number, **getattr(upstream, process)(made, [answer])})
    given = [sample[metric.name] for sample in samples]
    reported = float(getattr(upstream, aggregate)(given)) if aggregate else float(np.mean(given))
    units = units_of(samples, metric, {metric.name: reported})
    assert units.combine != "whole"
    assert units.score() == pytest.approx(100 * reported)
    assert 0 < reported < 1
    assert Units.from_json(units.to_json()).score() == units.score()
    assert set(rights_of(samples, metric).values()) == {0.0, 1.0}
    low, high = interval(resampled_scores([units], task)[:, 0]) or (0, 0)
    assert low < units.score() < high


def test_a_number_that_is_no_mean_stands_alone_without_an_interval() -> None:
    samples = [{"doc_id": n, "CIDEr": {"answer": ["a", "b"], "pred": "a"}} for n in range(4)]
    whole = units_of(samples, Metric("CIDEr"), {"CIDEr": 1.13})
    assert (whole.combine, whole.score()) == ("whole", 1.13)
    assert rights_of(samples, Metric("CIDEr")) == {}
    other = units_of(samples, Metric("CIDEr"), {"CIDEr": 0.9})
    records = [record("vanilla", None, "nocaps_val", 1.13), record("fastv", 64, "nocaps_val", 0.9)]
    table = make_table(records, {records[0]["id"]: whole, records[1]["id"]: other}, Layout(("NoCaps",)))
    (_, ratio) = table.ratios
    assert ratio is not None
    assert (round(ratio.value, 1), ratio.interval, ratio.group) == (79.6, None, "")
    assert "95 % interval –: NoCaps: a score that is no mean over questions." in table.notes


def test_where_lower_is_better_the_ratio_is_turned_round() -> None:
    values = np.random.default_rng(0).random(50) + 1

    def errors(scale: float) -> Units:
        made = [{"doc_id": n, "mae": float(scale * value)} for n, value in enumerate(values)]
        mean = float(np.mean([sample["mae"] for sample in made]))
        return units_of(made, Metric("mae", higher_is_better=False), {"mae": mean})

    full, worse = errors(1.0), errors(2.0)
    records = [record("vanilla", None, "counting", full.score()), record("fastv", 64, "counting", worse.score())]
    table = make_table(records, {records[0]["id"]: full, records[1]["id"]: worse}, Layout(("counting",)))
    (_, ratio) = table.ratios
    assert ratio is not None
    assert ratio.value == pytest.approx(50)
    assert ratio.interval == pytest.approx((50, 50))
    assert Units.from_json(worse.to_json()).higher_is_better is False


def test_upstreams_counters_start_at_zero_for_every_cell(tmp_path: Path) -> None:
    """Its OCRBench adds up over calls, so that a second cell's score would hold the first one's."""
    upstream = importlib.import_module("lmms_eval.tasks.ocrbench.utils")
    task = SimpleNamespace(aggregation=lambda: {"ocrbench_accuracy": upstream.ocrbench_aggregate_accuracy})
    document = {"answer": "a", "dataset": "x", "question_type": "Digit String Recognition"}
    answers = [upstream.ocrbench_process_results(document, [text])["ocrbench_accuracy"] for text in "aab"]
    scores = []
    for _ in range(2):
        with _counting_from_zero(task):
            scores.append(upstream.ocrbench_aggregate_accuracy(answers, SimpleNamespace(output_path=str(tmp_path))))
    assert scores == [0.002, 0.002]
    samples = [{"doc_id": n, "ocrbench_accuracy": answer} for n, answer in enumerate(answers)]
    units = units_of(samples, Metric("ocrbench_accuracy"), {"ocrbench_accuracy": 0.002})
    assert units.score() == pytest.approx(200 / 3)
    assert set(units.categories) == {"Digit String Recognition"}


@pytest.mark.parametrize(
    ("said", "read"), [("No", "no"), ("no, it is not", "no"), ("Yes, no doubt", "no"), ("nope", "yes")]
)
def test_pope_is_read_and_averaged_as_llava_does(said: str, read: str) -> None:
    folder = shipped("tasks")
    assert folder is not None
    spec = importlib.util.spec_from_file_location("paper_utils", folder / "paper" / "utils.py")
    assert spec is not None
    assert spec.loader is not None
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    documents = [
        {"category": kind, "answer": right} for kind in ("random", "popular") for right in ("yes", "no", "yes")
    ]
    first = utils.pope_process_results(documents[0], [said])["pope_f1_by_category"]
    assert first["prediction"] == read
    answers = ["yes", "no", "no", "yes", "yes", "yes"]
    samples: list[Mapping[str, Any]] = [
        {"doc_id": n, **utils.pope_process_results(document, [answer])}
        for n, (document, answer) in enumerate(zip(documents, answers, strict=True))
    ]
    f1 = utils.pope_f1_by_category([sample["pope_f1_by_category"] for sample in samples])
    assert f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    units = units_of(samples, Metric("pope_f1_by_category"), {"pope_f1_by_category": f1})
    assert units.score() == pytest.approx(100 * f1)
