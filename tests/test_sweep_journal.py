"""Answers survive what kills a run, and are never mixed with others."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.jobs import open_journal
from adaptinfer_eval.sweep.journal import Gone, Journal, only_run, read_answers

IDENTITY = {"method": "fastv", "versions": {"torch": "2.15"}}
WORKER = {"device": "cpu"}


def batch(*docs: int) -> list[dict[str, Any]]:
    return [{"doc": doc, "text": f"ünswer {doc}"} for doc in docs]


def journal(folder: Path) -> Journal:
    return open_journal(folder, "cell", IDENTITY)


def test_answers_are_there_for_the_next_run_by_document(tmp_path: Path) -> None:
    first = journal(tmp_path)
    first.write(WORKER, batch(7, 3))
    first.write({"device": "cuda:0"}, batch(5))
    again = journal(tmp_path)
    assert (again.done, again.torn) == ({3, 5, 7}, False)
    answers, workers = again.read()
    assert list(answers) == [3, 5, 7]
    assert answers[7]["text"] == "ünswer 7"
    assert workers == [WORKER, {"device": "cuda:0"}]
    assert read_answers(tmp_path, "cell") == answers
    assert read_answers(tmp_path, "another") == {}


@pytest.mark.parametrize("lost", [1, 10, 40])
def test_a_torn_last_line_is_cut_off_and_its_batch_answered_again(tmp_path: Path, lost: int) -> None:
    torn = journal(tmp_path)
    torn.write(WORKER, batch(0, 1))
    kept = torn.path.read_bytes()
    torn.write(WORKER, batch(2, 3))
    os.truncate(torn.path, torn.path.stat().st_size - lost)
    again = journal(tmp_path)
    assert (again.done, again.torn) == ({0, 1}, True)
    assert again.path.read_bytes() == kept
    again.write(WORKER, batch(2, 3))
    assert journal(tmp_path).done == {0, 1, 2, 3}


def test_a_torn_first_line_is_an_empty_journal(tmp_path: Path) -> None:
    path = journal(tmp_path).path
    os.truncate(path, 5)
    assert journal(tmp_path).done == set()
    assert journal(tmp_path).torn is False


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    damaged = journal(tmp_path)
    damaged.write(WORKER, batch(0))
    damaged.path.write_bytes(damaged.path.read_bytes().replace(b'"doc": 0', b'"doc"#0'))
    with pytest.raises(SweepError, match=r"cell.jsonl, line 2, is damaged"):
        journal(tmp_path)
    for first in ('{"something": "else"}', "[1]", "null", '{"journal": 3}'):
        damaged.path.write_text(first + "\n")
        with pytest.raises(SweepError, match="does not begin as a journal of version 2: delete it"):
            journal(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        (b"\xc3\xbcnswer 1", b"yes"),
        (b'"flops": 2.0', b'"flops": NaN'),
        (b'"doc": 1, ', b""),
        (b'"doc": 1', b'"doc": 99'),
        (b'"device": "cpu"', b'"device": "tpu"'),
        (b'{"worker"', b'[{"worker"'),
    ],
)
def test_an_edited_answer_is_noticed_and_left_where_it_is(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    edited = journal(tmp_path)
    edited.write(WORKER, [{**answer, "flops": 2.0} for answer in batch(0, 1)])
    edited.write(WORKER, batch(2))
    found = edited.path.read_bytes()
    assert change[0] in found
    edited.path.write_bytes(found.replace(*change, 1))
    for read in (lambda: journal(tmp_path), lambda: read_answers(tmp_path, "cell")):
        with pytest.raises(SweepError, match=r"cell\.jsonl, line 2, is damaged .*delete the line, or the file"):
            read()
    lines = edited.path.read_bytes().splitlines(keepends=True)
    edited.path.write_bytes(lines[0] + lines[2])  # as the message says
    assert journal(tmp_path).done == {2}


@pytest.mark.parametrize("line", [b"[1]", b"null", b"7", b'{"worker": {}, "answers": [{"text": "a"}]}', b"{}", b""])
def test_lines_that_no_run_has_written_are_refused(tmp_path: Path, line: bytes) -> None:
    path = journal(tmp_path).path
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(SweepError, match=r"cell\.jsonl, line 2, is damaged"):
        journal(tmp_path)


@pytest.mark.parametrize("change", [{"method": "pdrop"}, {"seed": 1}])
def test_a_line_of_another_cell_is_not_mixed_in(tmp_path: Path, change: dict[str, Any]) -> None:
    own = journal(tmp_path)
    own.write(WORKER, batch(0))
    other = Journal(tmp_path, "other", IDENTITY | change)
    other.write(WORKER, batch(1))
    with own.path.open("ab") as stream:
        stream.write(other.path.read_bytes().splitlines(keepends=True)[1])
    with pytest.raises(SweepError, match=r"cell\.jsonl, line 3, is damaged or comes from another journal"):
        journal(tmp_path)


def test_a_whole_journal_under_another_cells_name_is_refused(tmp_path: Path) -> None:
    """Also where nobody compares identities, as in a report."""
    first = journal(tmp_path)
    first.write(WORKER, batch(0))
    first.path.rename(first.path.with_name("another.jsonl"))
    with pytest.raises(SweepError, match=r"another\.jsonl is the journal of cell"):
        read_answers(tmp_path, "another")


def test_journals_without_checksums_are_refused_and_kept(tmp_path: Path) -> None:
    old = json.dumps({"journal": 1, "identity": IDENTITY}) + "\n"
    old += json.dumps({"worker": WORKER, "answers": batch(0)}) + "\n"
    path = tmp_path / "journal" / "cell.jsonl"
    path.parent.mkdir()
    path.write_text(old)
    with pytest.raises(SweepError, match=r"version 1, without checksums.*give another folder"):
        journal(tmp_path)
    assert path.read_text() == old
    assert read_answers(tmp_path, "cell") == {}


def test_what_json_cannot_hold_is_not_written(tmp_path: Path) -> None:
    kept = journal(tmp_path)
    kept.write(WORKER, batch(0))
    before = kept.path.read_bytes()
    for wrong in ({"flops": float("nan")}, {"flops": float("inf")}, {"text": "\ud800"}):
        with pytest.raises(ValueError, match=r"JSON|surrogates"):
            kept.write(WORKER, [{"doc": 1, "text": "a"} | wrong])
    assert (kept.path.read_bytes(), kept.done) == (before, {0})
    kept.write(WORKER, batch(1))
    assert journal(tmp_path).done == {0, 1}


def test_a_journal_that_was_deleted_or_changed_meanwhile_ends_the_run(tmp_path: Path) -> None:
    running = journal(tmp_path)
    running.write(WORKER, batch(0))
    again = journal(tmp_path)
    again.write(WORKER, batch(1))  # by another run
    with pytest.raises(Gone, match=r"cell\.jsonl is not as this run has left it"):
        running.write(WORKER, batch(2))
    shutil.rmtree(tmp_path / "journal")
    for use in (lambda: again.write(WORKER, batch(2)), again.read):
        with pytest.raises(Gone, match="deleted or changed it, so the run stops"):
            use()
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize("change", [{"method": "pdrop"}, {"versions": {"torch": "2.16"}}])
def test_answers_of_something_else_are_not_taken_up(tmp_path: Path, change: dict[str, Any]) -> None:
    journal(tmp_path).write(WORKER, batch(0))
    with pytest.raises(SweepError, match=rf"{next(iter(change))} was .*another folder"):
        open_journal(tmp_path, "cell", IDENTITY | change)


def test_a_full_disk_ends_the_run_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = journal(tmp_path)
    full.write(WORKER, batch(0))
    before = full.path.read_bytes()
    write = os.write

    def half(file: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space left on device"):
            full.write(WORKER, batch(1))
    assert full.path.read_bytes() == before
    assert full.done == {0}


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files, in a process of its own: the kernel refuses, nothing is replaced."""
    program = f"""
import resource, signal
from pathlib import Path
from adaptinfer_eval.sweep.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
journal = Journal(Path({str(tmp_path)!r}), "cell", {IDENTITY!r})
try:
    for doc in range(1000):
        journal.write({WORKER!r}, [{{"doc": doc, "text": "x" * 100}}])
except OSError as error:
    print(len(journal.done), error)
"""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "File too large" in shown
    again = journal(tmp_path)
    assert again.done == set(range(int(shown.split()[0])))
    assert again.torn is False
    assert 0 < again.path.stat().st_size <= 2000


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    with only_run(tmp_path):
        with (
            pytest.raises(SweepError, match=rf"process {os.getpid()} on .* is writing .*another folder"),
            only_run(tmp_path),
        ):
            pass
        with pytest.raises(SweepError, match="is writing"), only_run(tmp_path):
            pass
    with only_run(tmp_path):
        pass


@pytest.mark.parametrize("again", [False, True])
def test_a_folder_that_is_deleted_or_made_anew_is_not_the_one_that_is_held(tmp_path: Path, again: bool) -> None:
    with only_run(tmp_path / "out") as check:
        check()
        shutil.rmtree(tmp_path / "out")
        if again:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "lock").touch()
        with pytest.raises(Gone, match="was deleted or replaced during the run"):
            check()


def test_a_run_that_is_killed_lets_go_of_the_folder(tmp_path: Path) -> None:
    program = f"""
import time
from pathlib import Path
from adaptinfer_eval.sweep.journal import only_run
with only_run(Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SweepError, match=f"process {holder.pid} on"), only_run(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with only_run(tmp_path):
            pass
