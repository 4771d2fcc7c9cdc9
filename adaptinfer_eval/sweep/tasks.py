"""The lmms-eval tasks of a sweep, loaded once per process."""

from __future__ import annotations

from itertools import islice
from typing import Any

from adaptinfer_eval.sweep.config import SweepConfig, SweepError, nearest, shipped
from adaptinfer_eval.sweep.records import digest
from adaptinfer_eval.sweep.scores import check_metrics


def load_tasks(config: SweepConfig) -> tuple[Any, dict[str, Any]]:
    """lmms-eval's task manager and the task objects by name, their data sets loaded.

    SweepError for an unknown task, a group, and a task whose metric has no known scale.
    """
    from lmms_eval.tasks import TaskManager, get_task_dict

    manager = TaskManager("ERROR", include_path=str(shipped("tasks")), include_defaults=False)
    if not set(config.tasks) <= set(manager.all_tasks):  # upstream's own are slow to index: only where asked for
        manager = TaskManager("ERROR", include_path=str(shipped("tasks")))
    for name in config.tasks:
        if name in manager.all_groups:
            raise SweepError(f"tasks: {name} is a group; list its tasks")
        if name not in manager.all_subtasks:
            raise SweepError(f"tasks: unknown task {name!r}{nearest(name, manager.all_subtasks)[:500]}")
    tasks = get_task_dict(list(config.tasks), manager, "chat")
    for name, task in tasks.items():
        check_metrics(name, [metric["metric"] for metric in task.config.metric_list])
    return manager, {name: tasks[name] for name in config.tasks}


def question_counts(task: Any, limit: int | None) -> tuple[int, int]:
    """Questions that a cell asks, and those that the data set has."""
    available = len(task.eval_docs)
    return min(limit or available, available), available


def data_digest(task: Any, limit: int | None) -> str:
    """SHA-256 over the questions, their prompts' settings and their answers (images go by their question)."""
    documents = list(islice(task.eval_docs_no_media, limit))
    return digest([documents, task.config.generation_kwargs, task.config.lmms_eval_specific_kwargs])
