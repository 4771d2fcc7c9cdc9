"""Does every installed method do on the shipped tiny model what it did when it was last known to be right?

    python -m adaptinfer_eval.doctor.methods

writes what they do now to `kept.json`: run it when a method, the engine's choice of tokens or the tiny model is meant
to have changed, and look at what has.
"""

from __future__ import annotations

import base64
import json
import tempfile
import traceback
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptinfer_eval.doctor.finding import Finding, found_by, one_line
from adaptinfer_eval.doctor.tiny import ALIKE, APART, tiny_config, tiny_sweep
from adaptinfer_eval.methods.by_file import file_of, title
from adaptinfer_eval.methods.method import Method, available_methods, get_method
from adaptinfer_eval.sweep.cells import Cell, Setting, settings
from adaptinfer_eval.sweep.config import SweepConfig
from adaptinfer_eval.sweep.shards import Shard
from adaptinfer_eval.sweep.worker import Answered, Failed, Worker

STORED = Path(__file__).parent / "kept.json"
QUESTIONS = ((ALIKE, 0), (ALIKE, 1), (APART, 0), (APART, 1))
ELSEWHERE = {
    **dict.fromkeys(("cdpruner", "trim"), "it reads the question in CLIP's text tower, which the small model has not"),
    **dict.fromkeys(("evs", "vidcom2"), "it is for videos, which the small model is not shown"),
}
"""Methods that are shipped and cannot be tried on it."""
ROUNDING = 0.02
"""Share of the kept tokens that another machine's rounding may change: scores can lie as close as that."""
Row = dict[str, Any]
"""`answer` to a question, and as in a journal `kept` by layer or `assign`."""


def named_by_file(config: SweepConfig) -> list[str]:
    """Methods of a sweep that are not installed."""
    return [entry.name for entry in config.methods if file_of(entry.name)]


def methods(folder: Path, own: Sequence[str] = ()) -> Iterator[Finding]:
    """One finding per installed method, and per method of `own`, which are named by file. Logs go to `folder`."""
    usable = []
    for name, why in ELSEWHERE.items():
        yield Finding(f"method {name}", "ok", f"not tried: {why}")
    for name in (*available_methods(), *dict.fromkeys(own)):
        problem = _cannot_be_tried(name)
        if problem is not None:
            yield problem
        elif name not in ELSEWHERE:
            usable.append(name)
    stored: dict[str, list[Row]] = json.loads(STORED.read_text(encoding="utf-8"))
    for names in _different(usable):
        worker, tried = _loaded(folder, names)
        refused = worker.ready().cannot_run
        for setting in tried:
            name = setting.entry.title
            if setting.label in refused:
                yield Finding(
                    f"method {name}", "warning", f"not tried: {refused[setting.label]}", "try it with limit=2"
                )
            else:
                yield from found_by(f"method {name}", partial(_tried, worker, setting, stored.get(name)))


def _different(names: Sequence[str]) -> list[list[str]]:
    """Names in as few lists as can be, with no method twice in one, which a sweep refuses."""
    lists: list[dict[Method, str]] = []
    for name in names:
        (method,) = (setting.build() for setting in _settings([name]))
        place = next((known for known in lists if method not in known), None)
        if place is None:
            lists.append(place := {})
        place[method] = name
    return [list(known.values()) for known in lists]


def _cannot_be_tried(name: str) -> Finding | None:
    try:
        cls = get_method(name)
        needed = [field.name for field in fields(cls) if field.default is field.default_factory is MISSING]
        if own := [option for option in needed if option not in ("budget", "count", "seed")]:
            text = f"not tried: it has no default for {', '.join(own)}"
            return Finding(f"method {title(name)}", "warning", text, "try it with limit=2")
        for setting in _settings([name]):
            setting.build()
    except Exception as error:
        traceback.print_exc()
        remedy = "mend or uninstall the package that brings it"
        return Finding(f"method {title(name)}", "fails", f"does not load: {one_line(error)}", remedy)
    return None


def _tried(worker: Worker, setting: Setting, stored: list[Row] | None) -> Iterator[Finding]:
    name = f"method {setting.entry.title}"
    try:
        single = [row for task, doc in QUESTIONS for row in _answered(worker, setting, task, (doc,))]
        # One batch with a shared prefix, one with padding.
        batched = [row for task in (ALIKE, APART) for row in _answered(worker, setting, task, (0, 1))]
    except _NoAnswer as error:
        yield Finding(name, "fails", str(error), "leave it out of sweeps until it is mended; the log has the traceback")
        return
    remedy = "install the tested versions (README); leave the method out of sweeps until this line is well"
    if apart := _differs(batched, single):
        yield Finding(name, apart.verdict, f"batched is not as one by one: {apart.text}", remedy)
    elif stored is None:
        yield Finding(name, "ok", "runs, batched = single; not shipped here, so nothing is stored to compare with")
    elif apart := _differs(single, stored):
        yield Finding(name, apart.verdict, f"is not as stored: {apart.text}", remedy)
    else:
        yield Finding(name, "ok", "as stored, batched = single")


class _NoAnswer(Exception):
    pass


def _answered(worker: Worker, setting: Setting, task: str, docs: tuple[int, ...]) -> list[Row]:
    worker.add(Shard(task, docs, (Cell(worker.config.backbone, setting, task),)))
    rows: list[Row] = []
    for event in worker.events():
        if isinstance(event, Failed):
            raise _NoAnswer(" ".join(event.reason.split())[:300])
        if isinstance(event, Answered):
            rows = [
                {"answer": line["text"], **{key: line[key] for key in ("kept", "assign") if key in line}}
                for line in event.answers
            ]
    return rows


def _differs(found: Sequence[Row], expected: Sequence[Row]) -> Finding | None:
    """A finding about what is another, a warning if that can be rounding; None where nothing is."""
    shares = [_share(one, other) for one, other in zip(found, expected, strict=True)]
    answers = [(one["answer"], other["answer"]) for one, other in zip(found, expected, strict=True)]
    changed = [f"answers {one!r} for {other!r}" for one, other in answers if one != other]
    if not any(shares) and not changed:
        return None
    text = "; ".join([f"{max(shares):.1%} of the kept tokens are others", *changed])
    return Finding("", "fails" if changed or max(shares) > ROUNDING else "warning", text)


def _share(found: Row, expected: Row) -> float:
    """Of the tokens kept of an image, those that the other does not keep; 1 where not even the layers agree."""
    if found["kept"].keys() != expected["kept"].keys() or ("assign" in found) != ("assign" in expected):
        return 1.0
    shares = [_unlike(_bits(found["kept"][layer]), _bits(expected["kept"][layer])) for layer in found["kept"]]
    if "assign" in found:
        one, other = (
            np.frombuffer(zlib.decompress(base64.b64decode(row["assign"])), "<u2") for row in (found, expected)
        )
        shares.append(float((one != other).mean()) if one.shape == other.shape else 1.0)
    return max(shares, default=0.0)


def _unlike(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    if one.shape != other.shape:
        return 1.0
    return float((one != other).sum() / max(1, one.sum() + other.sum()))


def _bits(packed: str) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(base64.b64decode(packed), np.uint8))


def _settings(names: Sequence[str]) -> list[Setting]:
    return settings(tiny_config(Path(), names))


def _loaded(folder: Path, names: Sequence[str]) -> tuple[Worker, list[Setting]]:
    config, sources = tiny_sweep(folder, names)
    return Worker(config, sources), settings(config)


def store() -> None:
    """Write what the methods do now to `STORED`."""
    with tempfile.TemporaryDirectory() as folder:
        now = {}
        for names in _different([name for name in available_methods() if name not in ELSEWHERE]):
            worker, tried = _loaded(Path(folder), names)
            for setting in tried:
                rows = [row for task, doc in QUESTIONS for row in _answered(worker, setting, task, (doc,))]
                now[setting.entry.name] = rows
    lines = (f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in sorted(now.items()))
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    store()
