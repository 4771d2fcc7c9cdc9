"""Answers on disk as they are made: a file per cell, a line per batch, and the lock of a sweep's folder.

A batch's line is there whole or not at all, so a run that is killed loses the batch it was at and nothing else. Each
line has a checksum, so that an edited answer, or one of another cell, is noticed.
The format is described in results/README.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.files import named

JOURNAL_VERSION = 2
Answers = dict[int, dict[str, Any]]
"""An answer by its document's number."""
_JSON: Any = {"ensure_ascii": False, "allow_nan": False}


class Gone(SweepError):
    """A sweep's folder is not what the run has written to it: what would be measured goes into nowhere."""


class Unchecked(SweepError):
    """A journal of a version whose lines have no checksums."""


class Journal:
    """The answers of one cell, in `folder`/journal/`cell_id`.jsonl. `done`: the documents that are answered.

    Opening it cuts off a last line that a crash left unfinished, and begins a new one with `identity`: what its answers
    are of, which one that is there says itself. SweepError where a line in the middle is damaged or another journal's.
    """

    def __init__(self, folder: Path, cell_id: str, identity: Mapping[str, Any]) -> None:
        self.path = _path(folder, cell_id)
        found = _read(self.path)
        self._size = found.whole
        self.torn = found.whole < found.size
        if self.torn:
            os.truncate(self.path, found.whole)
        self.done = set(_answers(found.lines))
        self._header = found.header
        self.identity = found.lines[0]["identity"] if found.lines else identity
        if not found.lines:
            self._header = json.dumps({"journal": JOURNAL_VERSION, "cell": cell_id, "identity": identity}, **_JSON)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(_sealed(self._header))

    def write(self, worker: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]) -> None:
        """Add a batch's answers, on the disk when this returns; all of them or none. `worker`: what made them.

        ValueError where JSON cannot hold them, such as a number that is not finite. `Gone` where the file is not as
        this run has left it.
        """
        docs = [answer["doc"] for answer in answers]
        self._append(_sealed(json.dumps({"worker": worker, "answers": answers}, **_JSON), self._header))
        self.done.update(docs)

    def read(self) -> tuple[Answers, list[dict[str, Any]]]:
        """The answers by document, in their order; and the workers that made them."""
        found = _read(self.path)
        self._check(found.size)
        answers = _answers(found.lines)
        return {doc: answers[doc] for doc in sorted(answers)}, [line["worker"] for line in found.lines[1:]]

    def _append(self, line: bytes) -> None:
        first = os.O_CREAT if self._size == 0 else 0
        with named(self.path):
            try:
                file = os.open(self.path, os.O_WRONLY | os.O_APPEND | first, 0o644)
            except FileNotFoundError:
                self._check(0)
                raise
            try:
                self._check(os.fstat(file).st_size)
                left = line
                try:
                    while left:
                        left = left[os.write(file, left) :]
                    os.fsync(file)
                except OSError:
                    os.ftruncate(file, self._size)  # or the next line would follow half a one
                    raise
            finally:
                os.close(file)
        self._size += len(line)

    def _check(self, size: int) -> None:
        if size != self._size:
            raise Gone(
                f"{self.path} is not as this run has left it ({size} bytes, not {self._size}): something else has "
                "deleted or changed it, so the run stops; start the sweep again, it goes on with what is there"
            )


def read_answers(folder: Path, cell_id: str) -> Answers:
    """The answers of a cell that are there so far, by document; {} where there are none that can be checked."""
    try:
        return _answers(_read(_path(folder, cell_id)).lines)
    except Unchecked:
        return {}


@contextmanager
def only_run(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold the folder for this run; SweepError while another run holds it. A run that dies lets go of it.

    Gives a check that raises `Gone` once the folder has been deleted, or another one stands in its place.
    """
    with named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def check() -> None:
        if not path.exists() or not os.path.samestat(os.fstat(file), path.stat()):
            raise Gone(f"{folder} was deleted or replaced during the run, so it stops: start the sweep again")

    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 200).decode(errors="replace") or "another run"
            raise SweepError(f"{holder} is writing to {folder}: wait for it, or give another folder (output)") from None
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield check
    finally:
        os.close(file)


def _path(folder: Path, cell_id: str) -> Path:
    return folder / "journal" / f"{cell_id}.jsonl"


def _answers(lines: Iterable[Mapping[str, Any]]) -> Answers:
    return {answer["doc"]: answer for line in lines for answer in line.get("answers", [])}


def _sealed(line: str, header: str = "") -> bytes:
    """A line with its checksum. It is over the journal's first line too: a line belongs to one journal alone."""
    checksum = hashlib.sha256((header + line).encode()).hexdigest()
    return f'{line[:-1]}, "sha256": "{checksum}"}}\n'.encode()


class _Found(NamedTuple):
    """What is in a journal's file: its lines without their checksums, the first also as it stands there."""

    lines: list[dict[str, Any]]
    header: str
    whole: int
    """Bytes of the lines."""
    size: int
    """Bytes of the file: more where its end is torn."""


def _read(path: Path) -> _Found:
    if not path.exists():
        return _Found([], "", 0, 0)
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    lines: list[dict[str, Any]] = []
    header = ""
    for number, raw in enumerate(data[:whole].split(b"\n")[:-1], 1):
        text = raw.decode(errors="replace").rpartition(', "sha256": ')[0] + "}"
        if _sealed(text, header) != raw + b"\n":
            raise _unlike(path, number, raw)
        lines.append(json.loads(text))
        header = header or text
    if lines and lines[0].get("cell") != path.stem:
        raise SweepError(f"{path} is the journal of {lines[0].get('cell')}: give it its name back, or delete it")
    return _Found(lines, header, whole, len(data))


def _unlike(path: Path, number: int, line: bytes) -> SweepError:
    """Why a line is not what a run has written there."""
    try:
        found = json.loads(line)
    except ValueError as error:
        why = f"is damaged ({error})"
    else:
        version = found.get("journal") if isinstance(found, dict) else None
        if number == 1 and version == 1:
            return Unchecked(
                f"{path} is a journal of version 1, without checksums, so its answers cannot be checked: give another "
                "folder (output=...), or delete it to measure again"
            )
        if number == 1 and version != JOURNAL_VERSION:
            return SweepError(
                f"{path} does not begin as a journal of version {JOURNAL_VERSION}: delete it to measure again"
            )
        why = "is damaged or comes from another journal: its checksum is another"
    part = "the file" if number == 1 else "the line, or the file,"
    return SweepError(f"{path}, line {number}, {why}: delete {part} to answer those questions again")
