"""One loaded model that answers cells, one after another, through lmms-eval."""

from __future__ import annotations

import contextlib
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from adaptinfer_eval.pruning import pruned
from adaptinfer_eval.sweep.cells import Cell
from adaptinfer_eval.sweep.config import SweepConfig
from adaptinfer_eval.sweep.records import Record, write_record
from adaptinfer_eval.sweep.scores import paper_score
from adaptinfer_eval.sweep.tasks import load_tasks, question_counts


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: its record's status, and the reason unless it was measured."""

    cell: Cell
    status: str
    reason: str = ""


class Evaluator:
    """Loads model and data sets once; `finish` measures a cell and writes its record.

    `on_answers` is called with the number of requests answered since it was last called.
    """

    def __init__(self, config: SweepConfig, device: str | None, on_answers: Callable[[int], None]) -> None:
        from lmms_eval.models import get_model

        self.config = config
        self.manager, self.tasks = load_tasks(config)
        self.model = get_model(f"vanilla_{config.backbone}")(
            pretrained=config.checkpoint,
            batch_size=config.batch_size,
            dtype=config.dtype,
            device=device,
            **config.model_args,
        )
        self.model.on_answers = on_answers

    def finish(self, cell: Cell, identity: Record) -> Outcome:
        """Measure one cell. What goes wrong is recorded as its failure, with the traceback in the log."""
        asked, available = question_counts(self.tasks[cell.task], self.config.limit)
        method = cell.setting.build()
        started = time.perf_counter()
        status, reason, measured = "done", "", {}
        try:
            with pruned(self.model.model, method):
                pass
        except ValueError as error:  # what the shapes of the language model alone could not tell
            status, reason = "cannot run", str(error)
        if status == "done":
            try:
                measured = self._measure(cell, asked)
            except Exception as error:
                traceback.print_exc()
                status, reason = "failed", f"{type(error).__name__}: {error}"
        record = {
            "id": cell.id,
            "status": status,
            "reason": reason,
            **identity,
            "questions": asked,
            "questions_available": available,
            **measured,
            "model": repr(self.model),
            "device": str(self.model.device),
            "batch_size": self.config.batch_size,
            "seconds": round(time.perf_counter() - started, 3),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        write_record(Path(self.config.output), cell, record)
        return Outcome(cell, status, reason)

    def _measure(self, cell: Cell, asked: int) -> Record:
        from lmms_eval.evaluator import simple_evaluate
        from lmms_eval.loggers import EvaluationTracker

        # A folder per cell: some of upstream's files have the same name in all of them.
        folder = str(Path(self.config.output, "lmms_eval", cell.id))
        stamp = datetime.now().strftime("%Y%m%d_%H%M%S_%f")
        tracker = EvaluationTracker(output_path=folder)
        seed = self.config.seed
        self.model.method = cell.setting.build()
        results = simple_evaluate(
            model=self.model,
            model_args=f"pretrained={self.config.pretrained},{cell.setting.arguments()}",
            tasks=[self.tasks[cell.task]],
            task_manager=self.manager,
            batch_size=self.config.batch_size,
            limit=self.config.limit,
            bootstrap_iters=0,
            evaluation_tracker=tracker,
            cli_args=Namespace(output_path=folder, process_with_media=False, reasoning_tags=None),
            datetime_str=stamp,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
            process_docs_parallel=1,
        )
        samples, audit = results.pop("samples"), self.model.audit()
        if not len(samples[cell.task]) == audit["requests"] == asked:
            raise RuntimeError(
                f"{asked} questions: {audit['requests']} were answered, {len(samples[cell.task])} scored"
            )
        # Upstream would deep-copy the whole model into its results file.
        tracker.general_config_tracker.model_source = self.config.backbone
        tracker.save_results_aggregated(results=results, samples=samples, datetime_str=stamp)
        tracker.save_results_samples(task_name=cell.task, samples=samples[cell.task])
        answers = sorted(Path(folder).glob(f"*/{stamp}_samples_*.jsonl"))
        if not answers:  # upstream logs a failed save and goes on
            raise OSError(f"the answers were not written to {folder}: is the disk full?")
        metrics = _metrics(results["results"][cell.task])
        return {
            "score": paper_score(metrics),
            "metrics": metrics,
            "audit": audit,
            "answers": str(answers[0].relative_to(self.config.output)),
        }


def _metrics(results: dict[str, Any]) -> dict[str, float]:
    """Upstream's numbers by metric, without `,none` and the standard errors that were not asked for."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in results.items()
        if name.endswith(",none") and "_stderr" not in name and isinstance(value, int | float)
    }


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Send what lmms-eval and its libraries print to a file, so that the terminal is the sweep's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = path.open("a", encoding="utf-8", buffering=1)
    with log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        import lmms_eval.evaluator
        import lmms_eval.models  # noqa: F401  (both set up loguru when first imported)
        from loguru import logger

        logger.remove()
        sink = logger.add(log, level="INFO")
        try:
            yield
        finally:
            logger.remove(sink)
