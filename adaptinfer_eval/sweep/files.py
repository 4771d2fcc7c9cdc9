"""Files: written whole or not at all, and one sentence for what goes wrong with them."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_NAME = 200
"""Bytes: file systems take 255, and suffixes come to it."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    **dict.fromkeys(DISK_FULL, "free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place that you may write to"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "a file stands where a folder has to be; choose another place"),
    errno.EISDIR: "that is a folder; name a file",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "choose a folder in which files can be made",
}


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of the text as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: a reader, or a crash, never sees half of it. OSError names `path`.

    What is there and is no regular file (a device, a pipe, a link) stays, and is written through.
    """
    with named(path):
        target = Path(os.path.realpath(path))  # of a link, the file that it stands for
        if path.exists() and not (path.is_file() and target.exists()):
            with path.open("wb") as stream:
                stream.write(data)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{os.getpid()}.{threading.get_ident()}")
        try:
            with unfinished.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """An OSError of the block names `path`: those of writing name no file, and temporary files say nothing."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def about_a_file(error: BaseException) -> bool:
    """Whether it is the trouble of some file, and not of a network or a process."""
    return isinstance(error, OSError) and (error.errno in DISK_FULL or error.filename is not None)


def about_the_folder(error: BaseException, output: Path) -> bool:
    """Whether it is the trouble of a file in `output`, or of a full disk."""
    if not isinstance(error, OSError):
        return False
    return error.errno in DISK_FULL or (error.filename is not None and Path(str(error.filename)).is_relative_to(output))


def explained(error: OSError) -> str:
    """One sentence: the file, what is wrong with it, and what to do."""
    parts = (error.filename, error.strerror, _REMEDIES.get(error.errno or 0, "put that right"))
    return ": ".join(str(part) for part in parts if part is not None)


def file_name(text: str) -> str:
    """`text` as the name of a file, without its suffix: `/` is written `_`, and the end of a long one is a digest."""
    name = text.replace("/", "_")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return name.encode()[: LONGEST_NAME - 17].decode(errors="ignore") + f"-{digest}"
