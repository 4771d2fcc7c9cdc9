"""VLMEvalKit's own `run` with the pruned models in it: what it passes over in silence is said, and is an error here."""

from __future__ import annotations

import argparse
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptinfer_eval.sweep.errors import SweepError
from adaptinfer_eval.vlmevalkit.kit import check_data, load_kit
from adaptinfer_eval.vlmevalkit.names import Arguments, register

OWN_TYPES = ("MCQ", "Y/N")
"""Kinds of data sets that a judge may help to score, and exact matching scores as well."""
EXACT = "exact_matching"
SCORING = ("_auxmatch", "_tmp", "_score", "_acc", "_results", f"_{EXACT}_result")
"""Ends of the names of files that scoring by exact matching makes of the answers."""


class Missing(SweepError):
    """VLMEvalKit has ended, and a score is not there."""


def hand_over(arguments: Sequence[str], models: Mapping[str, Arguments], common: Arguments) -> None:
    """VLMEvalKit's `run` with its `arguments`, for `models` (those of the adapter, by name) or those it names itself.

    `common`: arguments of the models that it names itself. SweepError for what it would pass over or end badly with,
    and `Missing` where it has not scored every model on every data set.
    """
    asked = _read(arguments)
    names = [*models, *(asked.model or [])]
    if os.environ.get("SKIP_ERR") == "1":
        raise SweepError("SKIP_ERR=1 makes answers of errors: unset it")
    if asked.api_mode or asked.base_url:
        raise SweepError("--api-mode and --base-url are for models elsewhere: leave them out, batches are made anyway")
    if not asked.config and not (names and asked.data):
        raise SweepError("say what to run behind --, as in -- --data MME TextVQA_VAL; models, with --model or --method")
    kit = load_kit("vlmeval.run")
    if kit.WORLD_SIZE > 1:
        _check_torchrun()
    for dataset in asked.data or ():
        check_data(dataset)
    if asked.data and kit.RANK == 0:
        _check_folders(Path(os.environ.get("MMEVAL_ROOT", asked.work_dir)), names, asked)
    given = [*arguments, *(["--model", *models] if models else []), *_judge(asked)]
    register(models, names, common)
    # The threads that ask: enough for the batch at hand, and for the one that is next.
    if not {"--api-nproc", "--nproc"} & set(arguments):
        flag = "--api-nproc" if "--api-nproc" in inspect.getsource(kit.parse_args) else "--nproc"
        threads = 2 * max(int(own.get("batch_size", 1)) * int(own.get("workers", 1)) for own in _all(models, common))
        given += [flag, str(threads)]
    with _watched(kit) as done, _arguments(given):
        kit.main()
    if kit.RANK == 0 and not asked.config:
        _check(done, names, asked)
    elif kit.RANK == 0:
        _check_config(done, asked)


def _read(arguments: Sequence[str]) -> argparse.Namespace:
    """Those of VLMEvalKit's arguments that are looked at here."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--data", "--model"):
        parser.add_argument(name, nargs="+")
    for name in ("--config", "--judge", "--base-url"):
        parser.add_argument(name)
    parser.add_argument("--mode", default="all")
    parser.add_argument("--work-dir", default="./outputs")
    parser.add_argument("--api-mode", action="store_true")
    parser.add_argument("--reuse", action="store_true")
    return parser.parse_known_args(list(arguments))[0]


def _check_folders(folder: Path, models: Sequence[str], asked: argparse.Namespace) -> None:
    """VLMEvalKit takes answers and scores that are there, of however few questions, whether asked to or not.

    Answers are not gone over in silence, and with --reuse they are scored anew (but by a judge, who costs).
    """
    for model in models:
        for data in asked.data:
            beside = [path for path in sorted((folder / model).glob("*")) if path.stem.startswith(f"{model}_{data}")]
            answers = [path for path in beside if path.stem == f"{model}_{data}"]
            if answers and not asked.reuse and asked.mode != "eval":
                raise SweepError(
                    f"{answers[0]} has answers already, which VLMEvalKit would go on with: say so with --reuse (behind "
                    "--), or give another folder with --work-dir"
                )
            for path in beside if (asked.judge or EXACT) == EXACT else ():
                if path.stem.removeprefix(f"{model}_{data}") in SCORING:
                    path.unlink()


def _check_torchrun() -> None:
    import torch

    if not torch.cuda.is_available():
        raise SweepError("VLMEvalKit under torchrun needs GPUs (NCCL): --workers N starts N processes without it")


def _judge(asked: argparse.Namespace) -> list[str]:
    """Exact matching, where no data set needs a judge and none was named: VLMEvalKit would ask GPT, or wait for it."""
    if asked.judge or not asked.data:
        return []
    from vlmeval.dataset import DATASET_TYPE, ImageVQADataset

    exact = [name for name in asked.data if DATASET_TYPE(name) in OWN_TYPES]
    ruled = ImageVQADataset.supported_datasets()
    judged = [name for name in asked.data if name not in exact and name not in ruled]
    if exact and judged:
        raise SweepError(
            f"{', '.join(judged)}: scored by a judge or by rules of its own, and {', '.join(exact)} need none: run "
            "them apart, or name a judge for all (--judge, behind --)"
        )
    return ["--judge", EXACT] if exact else []


def _all(models: Mapping[str, Arguments], common: Arguments) -> list[Arguments]:
    return [*models.values(), common]


Done = dict[str, Any]
"""By name of a file of predictions, without its suffix: what scoring came to; True where only answers were made."""


@contextmanager
def _watched(kit: Any) -> Iterator[Done]:
    """What is answered and scored inside, which VLMEvalKit does not say by its exit code."""
    done: Done = {}
    before = {name: getattr(kit, name) for name in ("build_dataset", "build_dataset_from_config", "infer_data_job")}

    def scoring(build: Callable[..., Any]) -> Callable[..., Any]:
        def built(*args: Any, **options: Any) -> Any:
            dataset = build(*args, **options)
            if dataset is None:
                return None
            evaluate = dataset.evaluate

            def recorded(file: str, *args: Any, **options: Any) -> Any:
                done.pop(Path(file).stem, None)
                found = done[Path(file).stem] = evaluate(file, *args, **options)
                return found

            dataset.evaluate = recorded
            return dataset

        return built

    def infer(*args: Any, **options: Any) -> Any:
        model = before["infer_data_job"](*args, **options)
        done[f"{options['model_name']}_{options['dataset'].dataset_name}"] = True
        return model

    for name in ("build_dataset", "build_dataset_from_config"):
        setattr(kit, name, scoring(before[name]))
    kit.infer_data_job = infer
    try:
        yield done
    finally:
        for name, function in before.items():
            setattr(kit, name, function)


@contextmanager
def _arguments(given: Sequence[str]) -> Iterator[None]:
    """VLMEvalKit reads its arguments from the process."""
    before, sys.argv = sys.argv, ["vlmevalkit", *given]
    try:
        yield
    finally:
        sys.argv = before


def _check(done: Done, models: Sequence[str], asked: argparse.Namespace) -> None:
    wanted = {f"{model}_{data}": f"{model} on {data}" for model in models for data in asked.data}
    _check_all(done, wanted, answers_only=asked.mode == "infer")


def _check_config(done: Done, asked: argparse.Namespace) -> None:
    from vlmeval.smp import load

    told = load(asked.config)
    wanted = {f"{model}_{data}": f"{model} on {data}" for model in told["model"] for data in told["data"]}
    _check_all(done, wanted, answers_only=asked.mode == "infer")


def _check_all(done: Done, wanted: Mapping[str, str], answers_only: bool) -> None:
    there = {name for name in done if answers_only or scored(done[name])}
    lacking = [shown for name, shown in wanted.items() if name not in there]
    if lacking:
        what = "answers" if answers_only else "a score"
        raise Missing(f"{len(lacking)} of {len(wanted)} are without {what}, the log says why: {', '.join(lacking)}")


def scored(found: Any) -> bool:
    """Whether what scoring returned has a number in it."""
    if found is None or found is True:
        return False
    values = found.to_numpy().ravel().tolist() if hasattr(found, "to_numpy") else _leaves(found)
    return any(_is_number(value) for value in values)


def _leaves(found: Any) -> list[Any]:
    if isinstance(found, Mapping):
        return [leaf for value in found.values() for leaf in _leaves(value)]
    return [leaf for value in found for leaf in _leaves(value)] if isinstance(found, list | tuple) else [found]


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False
