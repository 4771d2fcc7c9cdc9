"""Files are written whole or not at all, and through what is no regular file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from adaptinfer_eval.sweep.files import LONGEST_NAME, explained, file_name, write_bytes, write_text


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "record.json"
    write_text(path, "first")

    def full_disk(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_text(path, "second")
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["record.json"]


def test_names_as_long_as_a_file_system_takes_can_be_written(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 255), "whole")
    assert (tmp_path / ("n" * 255)).read_text() == "whole"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path, there: bool) -> None:
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "file"
    link.symlink_to(target)
    if there:
        target.parent.mkdir()
        target.write_text("old")
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["file"]


def test_a_pipe_stays_and_is_written_through(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_bytes(pipe, b"through")
    reader.join(60)
    assert read == [b"through"]
    assert pipe.is_fifo()


def test_a_device_stays_and_is_written_through(tmp_path: Path) -> None:
    """Behind a link, so that a mistake here costs no device."""
    device = tmp_path / "device"
    device.symlink_to("/dev/null")
    write_bytes(device, b"gone")
    assert device.is_symlink()
    assert device.is_char_device()


def test_what_is_wrong_is_one_sentence_with_the_file_and_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    wrong = {
        tmp_path: "Is a directory: that is a folder; name a file",
        tmp_path / "file" / "under": "File exists: a file stands where a folder has to be",
        tmp_path / "file" / "far" / "under": "Not a directory: a file stands where a folder has to be",
        tmp_path / ("n" * 256): "File name too long: choose a shorter name",
        tmp_path / "full": "No space left on device: free some space",
        Path("/proc/none/file"): "No such file or directory: choose a folder in which files can be made",
    }
    (tmp_path / "full").symlink_to("/dev/full")
    for path, sentence in wrong.items():
        with pytest.raises(OSError, match=r".") as caught:
            write_bytes(path, b"data")
        assert explained(caught.value).startswith(f"{path}: {sentence}")


def test_names_of_files() -> None:
    assert file_name("mini/mme") == "mini_mme"
    long = "llava-fitprune.schedule=" + ",".join(f"{layer}:{layer}" for layer in range(100))
    assert len(f"{file_name(long)}.jsonl".encode()) <= 255
    assert file_name(long).startswith(long[:100])
    assert file_name(long) != file_name(f"{long},101:1")
    assert len(file_name("ü" * LONGEST_NAME).encode()) <= LONGEST_NAME
