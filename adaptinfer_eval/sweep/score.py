"""From a cell's answers to its record: upstream's own scoring over the journal, no model needed."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.loggers import EvaluationTracker

from adaptinfer_eval.models.tally import Tally
from adaptinfer_eval.sweep.cells import Cell
from adaptinfer_eval.sweep.config import SweepConfig
from adaptinfer_eval.sweep.files import file_name, write_text
from adaptinfer_eval.sweep.journal import Answers, Journal
from adaptinfer_eval.sweep.records import Record
from adaptinfer_eval.sweep.samples import rights_of, units_of
from adaptinfer_eval.sweep.scores import metric_of
from adaptinfer_eval.sweep.worker import read_cost

FOLDERS = {"lmms-eval": "lmms_eval", "vlmevalkit": "vlmevalkit"}
"""Where in a sweep's folder a harness writes its own files."""


class Answered(lmms):  # type: ignore[misc]
    """A model for lmms-eval that has answered everything already."""

    is_simple = False

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self.answers = answers

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        found = [(self.answers[request.doc_id], read_cost(self.answers[request.doc_id])) for request in requests]
        return [
            GenerationResult(answer["text"], TokenCounts(cost.vision_tokens + cost.text_tokens, cost.generated_tokens))
            for answer, cost in found
        ]

    def clean(self) -> None:
        """Nothing to free; upstream's own collects garbage for half a second."""

    def loglikelihood(self, requests: Sequence[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("only generated answers are in a journal")

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:
        raise NotImplementedError("only generated answers are in a journal")


@dataclass(frozen=True)
class Scored:
    """`score` on the papers' scale, upstream's `metrics`, what a cell's file of scores says, and upstream's samples."""

    score: float
    metrics: dict[str, float]
    scores: dict[str, Any]
    samples: Path


def measure(config: SweepConfig, cell: Cell, journal: Journal, manager: Any, task: Any) -> Record:
    """What came out of a cell whose answers are all there: the part of its record that is not its identity."""
    answers, workers = journal.read()
    output = Path(config.output)
    # A folder per cell: some of upstream's files have the same name in all of them.
    scored = score(config, cell, answers, output / FOLDERS[config.harness] / cell.id, manager, task, config.limit)
    if not all(map(math.isfinite, scored.metrics.values())):
        raise ValueError(f"upstream's metrics are {scored.metrics}")
    scores = Path("scores", f"{cell.id}.json")
    write_text(output / scores, json.dumps(scored.scores))
    return {
        "score": scored.score,
        **({} if scored.scores.get("higher_is_better", True) else {"higher_is_better": False}),
        "metrics": scored.metrics,
        "audit": _audit(answers),
        "answers": str(scored.samples.relative_to(output)),
        "scores": str(scores),
        **_workers(workers),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def score(
    config: SweepConfig, cell: Cell, answers: Answers, folder: Path, manager: Any, task: Any, limit: int | None
) -> Scored:
    """Upstream's scoring of `answers`, those to all of the task's first `limit` questions; its files go to `folder`."""
    if config.harness == "vlmevalkit":
        from adaptinfer_eval.vlmevalkit.score import score as score_by_kit

        return score_by_kit(cell, answers, folder, task)
    stamp = datetime.now().strftime("%Y%m%d_%H%M%S_%f")
    tracker = EvaluationTracker(output_path=str(folder))
    seed = config.seed_of(cell.setting.seed)
    metric = metric_of(cell.task, task.config.metric_list, config.metrics.get(cell.task, ""))
    with _counting_from_zero(task):
        results = simple_evaluate(
            model=Answered(answers),
            model_args=f"pretrained={config.pretrained},{cell.setting.arguments()}",
            tasks=[task],
            task_manager=manager,
            batch_size=config.batch_size,
            limit=limit,
            bootstrap_iters=0,
            evaluation_tracker=tracker,
            cli_args=Namespace(output_path=str(folder), process_with_media=False, reasoning_tags=None),
            datetime_str=stamp,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
            process_docs_parallel=1,
        )
    samples = results.pop("samples")
    if len(samples[cell.task]) != len(answers):
        raise RuntimeError(f"{len(answers)} questions were answered, {len(samples[cell.task])} scored")
    # Upstream would deep-copy the whole model into its results file.
    tracker.general_config_tracker.model_source = config.backbone
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str=stamp)
    tracker.save_results_samples(task_name=file_name(cell.task), samples=samples[cell.task])
    saved = sorted(folder.glob(f"*/{stamp}_samples_*.jsonl"))
    if not saved or saved[0].read_bytes().count(b"\n") != len(answers):  # upstream logs a failed save and goes on
        raise RuntimeError(
            f"lmms-eval did not write all samples to {folder}: {Path(config.output, 'log.txt')} says why"
        )
    metrics = _metrics(results["results"][cell.task])
    units = units_of(samples[cell.task], metric, metrics, _categories(task, answers))
    rights = sorted(rights_of(samples[cell.task], metric).items())
    return Scored(units.score(), metrics, {**units.to_json(), "rights": rights}, saved[0])


@contextmanager
def _counting_from_zero(task: Any) -> Iterator[None]:
    """Upstream's OCRBench adds to counters of its module: a second cell's score would have the first one's in it."""
    modules = {id(function.__globals__): function.__globals__ for function in task.aggregation().values()}
    counters = [found for module in modules.values() for found in module.values() if _is_counter(found)]
    before = [dict(counter) for counter in counters]
    try:
        yield
    finally:
        for counter, values in zip(counters, before, strict=True):
            counter.clear()
            counter.update(values)


def _is_counter(found: object) -> bool:
    return isinstance(found, dict) and bool(found) and all(type(value) in (int, float) for value in found.values())


def _categories(task: Any, docs: Iterable[int]) -> dict[int, str]:
    """Of the documents, where the task's metadata say which column has them, as in `category: types.structural`."""
    metadata = task.config.metadata
    path = metadata.get("category", "") if isinstance(metadata, Mapping) else ""
    if not path:
        return {}
    documents = task.eval_docs_no_media
    return {doc: _at(documents[doc], path.split(".")) for doc in docs}


def _at(found: Any, path: Iterable[str]) -> str:
    """What a document has there; empty where it has nothing, since a score does not depend on it."""
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return "" if found is None else str(found)


def _audit(answers: Answers) -> dict[str, Any]:
    tally = Tally()
    for answer in answers.values():
        tally.add(read_cost(answer))
    return {**tally.audit(), "seconds": tally.seconds / tally.requests}


def _workers(workers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How the answers were made; where a sweep went on elsewhere, all of it in order of first use."""
    ways = {key: list(dict.fromkeys(worker[key] for worker in workers)) for key in workers[0]}
    return {key: values[0] if len(values) == 1 else values for key, values in ways.items()}


def _metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Upstream's numbers by metric, without `,none` and the standard errors that were not asked for."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in results.items()
        if name.endswith(",none") and "_stderr" not in name and isinstance(value, int | float)
    }
