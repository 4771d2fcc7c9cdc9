"""Answers on disk as they are made: a file per cell, a line per batch, and the lock of a sweep's folder.

A batch's line is there whole or not at all, so a run that is killed loses the batch it was at and nothing else.
The format is described in results/README.md.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.identity import compare

JOURNAL_VERSION = 1
Answers = dict[int, dict[str, Any]]
"""An answer by its document's number."""


class Journal:
    """The answers of one cell, in `folder`/journal/`cell_id`.jsonl. `done`: the documents that are answered.

    Opening it cuts off a last line that a crash left unfinished. SweepError where the answers in it are of something
    other than `identity`, and where a line in the middle is damaged.
    """

    def __init__(self, folder: Path, cell_id: str, identity: Mapping[str, Any]) -> None:
        self.path = _path(folder, cell_id)
        lines, whole, size = _read(self.path)
        if whole < size:
            os.truncate(self.path, whole)
        self.torn = whole < size
        self.done = set(_answers(lines))
        if lines:
            compare(self.path, lines[0]["identity"], identity, identity)
        else:
            self._append({"journal": JOURNAL_VERSION, "identity": identity})

    def write(self, worker: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> None:
        """Add a batch's answers, on the disk when this returns; all of them or none. `worker`: what made them."""
        self._append({"worker": worker, "answers": answers})
        self.done.update(answer["doc"] for answer in answers)

    def read(self) -> tuple[Answers, list[dict[str, Any]]]:
        """The answers by document, in their order; and the workers that made them."""
        lines, _, _ = _read(self.path)
        answers = _answers(lines)
        return {doc: answers[doc] for doc in sorted(answers)}, [line["worker"] for line in lines[1:]]

    def _append(self, line: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            before = os.fstat(file).st_size
            try:
                while data:
                    data = data[os.write(file, data) :]
                os.fsync(file)
            except OSError:
                os.ftruncate(file, before)  # or the next line would follow half a one
                raise
        finally:
            os.close(file)


def read_answers(folder: Path, cell_id: str) -> Answers:
    """The answers of a cell that are there so far, by document; {} where there are none."""
    lines, _, _ = _read(_path(folder, cell_id))
    return _answers(lines)


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold the folder for this run; SweepError while another run holds it. A run that dies lets go of it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode() or "another run"
            raise SweepError(
                f"{holder} is writing to {folder}: wait for it, or give another folder (output=...)"
            ) from None
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(file)


def _path(folder: Path, cell_id: str) -> Path:
    return folder / "journal" / f"{cell_id}.jsonl"


def _answers(lines: Iterable[Mapping[str, Any]]) -> Answers:
    return {answer["doc"]: answer for line in lines for answer in line.get("answers", [])}


def _read(path: Path) -> tuple[list[dict[str, Any]], int, int]:
    """The lines of a journal, the bytes that they take, and the bytes of the file: more where its end is torn."""
    if not path.exists():
        return [], 0, 0
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    lines = []
    for number, line in enumerate(data[:whole].splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError as error:
            raise SweepError(
                f"{path}, line {number}, is damaged ({error}): delete the line, or the file, to answer those again"
            ) from error
    if lines and lines[0].get("journal") != JOURNAL_VERSION:
        raise SweepError(f"{path} does not begin as a journal of version {JOURNAL_VERSION}: delete it to measure again")
    return lines, whole, len(data)
