"""The lmms-eval tasks of a sweep, loaded once per process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptinfer_eval.models.requests import Request, RequestError, generation_requests
from adaptinfer_eval.sweep.config import SweepConfig, SweepError, nearest, shipped
from adaptinfer_eval.sweep.scores import check_limit, metric_of
from adaptinfer_eval.sweep.task_files import data_files, description, task_files

ALONE = "run it with the lmms-eval command"


def load_tasks(config: SweepConfig, scored: bool = True) -> tuple[Any, dict[str, Any]]:
    """lmms-eval's task manager and the task objects by name, their data sets loaded; VLMEvalKit's, without a manager.

    SweepError for an unknown task, a group, data that cannot be read, and, where answers are to be `scored`, a task of
    whose metrics none is known to be its score.
    """
    from lmms_eval.tasks import get_task_dict

    if config.harness == "vlmevalkit":
        from adaptinfer_eval.vlmevalkit.tasks import load_tasks as load_kit_tasks

        return None, dict(load_kit_tasks(config))
    check_tasks(config, scored)
    manager = task_manager(config)
    tasks: dict[str, Any] = {}
    for name in config.tasks:
        try:
            tasks |= get_task_dict([name], manager, "chat")
        except Exception as error:  # upstream tries again and again, and wraps what went wrong
            raise SweepError(_no_data(name, manager, error)) from error
    for name, task in tasks.items() if scored else ():
        _check_scores(name, task.config.metric_list, config)
    return manager, tasks


def check_tasks(config: SweepConfig, scored: bool = True) -> None:
    """SweepError for an unknown task, a group, and what is wrong by a task's file already: no data set is loaded.

    Imports lmms-eval only where task files do not settle it.
    """
    if config.harness == "vlmevalkit":
        from adaptinfer_eval.vlmevalkit.kit import kit_version

        kit_version()  # its data sets are looked at when they are loaded
        return
    files = task_files(config.tasks)
    if len(files) < len(config.tasks):
        index = task_manager(config).task_index
        found = {name: index[name]["yaml_path"] for name in config.tasks}
        files = {name: Path(path) for name, path in found.items() if path != -1}  # -1: a task in Python
    for name, path in files.items():
        told = description(path)
        if missing := ", ".join(str(file) for file in data_files(path) if not file.is_file()):
            raise SweepError(f"tasks: the data of {name} are not here: restore {missing}")
        if (kind := told.get("output_type", "generate_until")) != "generate_until":
            raise SweepError(f"tasks: {name} asks for {kind}; a sweep takes generated answers: {ALONE}")
        if scored and told.get("metric_list"):
            _check_scores(name, told["metric_list"], config)


def task_manager(config: SweepConfig) -> Any:
    """lmms-eval's task manager, without any data set; SweepError for an unknown task and a group."""
    from lmms_eval.tasks import TaskManager
    from loguru import logger

    logger.disable("lmms_eval.tasks")  # dozens of its own files are no tasks, and it tells of each
    manager = TaskManager("ERROR", include_path=str(shipped("tasks")), include_defaults=False)
    if not set(config.tasks) <= set(manager.all_tasks):  # upstream's own are slow to index: only where asked for
        manager = TaskManager("ERROR", include_path=str(shipped("tasks")))
    logger.enable("lmms_eval.tasks")
    for name in config.tasks:
        if name in manager.all_groups:
            raise SweepError(f"tasks: {name} is a group; list its tasks")
        if name not in manager.all_subtasks:
            raise SweepError(f"tasks: unknown task {name!r}{nearest(name, manager.all_subtasks)[:500]}")
    return manager


def _check_scores(name: str, metric_list: Sequence[Mapping[str, Any]], config: SweepConfig) -> None:
    metric_of(name, metric_list, config.metrics.get(name, ""))
    check_limit(name, [metric["metric"] for metric in metric_list], config.limit)


def questions(name: str, task: Any, limit: int | None) -> dict[int, Request]:
    """What a task asks, by document. SweepError unless it asks for one generated answer per document."""
    from adaptinfer_eval.models.generation import Generation  # heavy: plan only looks at names

    documents = task.eval_docs_no_media
    asked = documents["question"] if "question" in (getattr(documents, "column_names", None) or []) else []
    if None in (column := asked[:limit]):
        raise SweepError(f"tasks: the question of {name}'s document {column.index(None)} is None: mend its data")
    task.build_all_requests(limit=limit)
    kinds = {instance.request_type for instance in task.instances}
    try:
        found = generation_requests(task.instances, is_simple=False)
        for request in found:
            Generation.read(request.generation)
    except (RequestError, ValueError) as error:
        raise SweepError(f"tasks: {name}: {error}") from error
    requests = {request.doc_id: request for request in found}
    if kinds != {"generate_until"} or len(requests) < len(task.instances) or (task.config.repeats or 1) > 1:
        raise SweepError(
            f"tasks: {name} asks for {', '.join(sorted(kinds))} {len(task.instances)} times about {len(requests)} "
            f"documents; a sweep takes one generated answer per document: {ALONE}"
        )
    return requests


def _no_data(name: str, manager: Any, error: BaseException) -> str:
    """Why a task's data could not be loaded: the files of a data set kept here, or the way to one that is not."""
    while error.__cause__ is not None:
        error = error.__cause__
    why = f"{type(error).__name__}: {' '.join(str(error).split())}"
    path = manager.task_index[name]["yaml_path"]
    if path != -1 and (files := ", ".join(map(str, data_files(Path(path))))):
        return f"tasks: the data of {name} cannot be read ({why}): restore {files}"
    return (
        f"tasks: the data set of {name} could not be loaded ({why}): is the network there, and are you logged in to "
        "the hub?"
    )
