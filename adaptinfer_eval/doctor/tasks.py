"""Is each task's data set here, or can it be had; and does lmms-eval score an answer to it?"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from adaptinfer_eval.doctor.finding import BROKEN, Finding, found_by, one_line
from adaptinfer_eval.doctor.hub import Reply, ask_hub, without_hub
from adaptinfer_eval.doctor.machine import GB, free_space
from adaptinfer_eval.sweep.config import SweepConfig

PASSED_ON = ("data_files", "data_dir", "revision")
"""What of a task's `dataset_kwargs` says which data they are."""


def tasks(config: SweepConfig, folder: Path) -> Iterator[Finding]:
    """For each task, a finding about its data and one about its scoring, whose files go to `folder`.

    What is not on this machine is not downloaded, but the hub is asked about it.
    """
    from huggingface_hub import get_token

    from adaptinfer_eval.sweep.tasks import task_manager

    manager = task_manager(config)
    described = {name: _described(manager, name) for name in config.tasks}
    replies = _replies({name: data for name, data in described.items() if not _is_here(data)})
    for name, data in described.items():
        if (data.get("dataset_kwargs") or {}).get("token") is True and get_token() is None:
            yield Finding(f"data {name}", "fails", f"{data['dataset_path']} needs a login to the hub", "hf auth login")
        elif name in replies:
            yield _to_download(name, data, replies[name])
            yield Finding(f"scoring {name}", "warning", "not tried: its data are not here", "have the data first")
        else:
            yield from found_by(f"scoring {name}", partial(_scored, config, name, folder))


def _replies(absent: Mapping[str, Mapping[str, Any]]) -> dict[str, Reply]:
    """The hub's about each task's data set, asked at once."""
    with ThreadPoolExecutor(8) as asking:
        asked = {
            name: asking.submit(ask_hub, "dataset", str(data["dataset_path"]), _keywords(data).get("revision"))
            for name, data in absent.items()
        }
    return {name: reply.result() for name, reply in asked.items()}


def _described(manager: Any, name: str) -> dict[str, Any]:
    """A task's YAML, with what it includes; nothing of a task in Python, which is told when it is loaded."""
    from lmms_eval.utils import load_yaml_config

    path = manager.task_index[name]["yaml_path"]
    return {} if path == -1 else dict(load_yaml_config(path, mode="full"))


def _keywords(data: Mapping[str, Any]) -> dict[str, Any]:
    given = data.get("dataset_kwargs") or {}
    return {key: given[key] for key in PASSED_ON if key in given}


def _is_here(data: Mapping[str, Any]) -> bool:
    """Whether `datasets` finds the data without the hub; lmms-eval itself would try for half a minute."""
    from datasets import load_dataset_builder
    from lmms_eval.api import task as upstream

    cache = getattr(upstream, "_resolve_hf_datasets_cache_dir", lambda: None)()  # where it looks, if not where all do
    if not data.get("dataset_path") or (data.get("dataset_kwargs") or {}).get("load_from_disk"):
        return True  # nothing to ask the hub about: loading it will tell
    with without_hub():
        try:
            load_dataset_builder(data["dataset_path"], data.get("dataset_name"), cache_dir=cache, **_keywords(data))
        except (ConnectionError, FileNotFoundError, ValueError):
            return False
    return True


def _to_download(name: str, data: Mapping[str, Any], reply: Reply) -> Finding:
    import datasets

    source = data["dataset_path"]
    if "/" not in str(source):
        files = _keywords(data).get("data_files")
        return Finding(f"data {name}", "fails", f"{source}: no file {files}", "put it there, or mend the task's YAML")
    if reply.reason:
        return Finding(f"data {name}", "fails", reply.reason, reply.remedy)
    own = repr(data["dataset_name"]) if data.get("dataset_name") else ""
    command = f"""python -c "import datasets; datasets.load_dataset('{source}'{", " * bool(own)}{own})\""""
    text = f"{source} is not here; the run will download up to {reply.bytes / GB:.3g} GB"
    cache, free = free_space(Path(datasets.config.HF_DATASETS_CACHE))
    if 2 * reply.bytes > free:  # as downloaded, and as `datasets` keeps it
        text = f"{text} and keep it twice, in {cache}, where {free / GB:.3g} GB are free"
        return Finding(
            f"data {name}", "fails", text, f"free some space, or set HF_HOME to another disk; then {command}"
        )
    return Finding(f"data {name}", "warning", text, f"to have it beforehand: {command}")


def _scored(config: SweepConfig, name: str, folder: Path) -> Iterator[Finding]:
    from adaptinfer_eval.sweep.canned import score_canned
    from adaptinfer_eval.sweep.cells import Cell, settings
    from adaptinfer_eval.sweep.tasks import load_tasks, questions

    alone = config.model_copy(update={"tasks": (name,), "output": str(folder)})
    try:
        with without_hub():
            manager, loaded = load_tasks(alone)
    except Exception as error:
        traceback.print_exc()
        yield Finding(f"data {name}", "fails", one_line(error), "download the data set anew, or mend the task")
        return
    asked = questions(name, loaded[name], config.limit)
    of = f"{len(asked)} questions" + f" of {len(loaded[name].eval_docs)}" * bool(config.limit)
    yield Finding(f"data {name}", "ok", f"here, {of}")
    cell = Cell(config.backbone, settings(config)[0], name)
    try:
        score = score_canned(alone, cell, asked, manager, loaded[name])
    except Exception as error:
        traceback.print_exc()
        yield Finding(f"scoring {name}", "fails", one_line(error), BROKEN)
    else:
        yield Finding(f"scoring {name}", "ok", f"a canned answer is scored by lmms-eval ({score:g})")
