"""Files on a disk shared by nodes: atomic writes, and reads that tolerate missing files.

A file is written under a temporary name, flushed to disk, then renamed: a reader sees either the
old content or the new, complete, even if the disk fills up or the process dies.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

_T = TypeVar("_T")
Write = Callable[[Path, Callable[[IO[bytes]], object]], None]
"""A function that writes a file: write_atomic or RunDir.write."""
AnyPath = str | Path
"""Paths of thousands of files are built as text: that takes a tenth of the time of a Path."""
_PAUSE_S = 0.05
_PIECE = 1 << 16


def is_gone(error: OSError) -> bool:
    """Whether an error means that the file or its folder does not exist. On NFS that includes
    ESTALE: another node has removed or replaced it."""
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    return missing or error.errno == errno.ESTALE


def present(look: Callable[[], _T]) -> _T | None:
    """The result of `look`, None if the file or its folder does not exist. After ESTALE, which may
    only mean that the file was replaced, looks again a few times. Raises other OSErrors."""
    for left in (3, 2, 1, 0):
        try:
            return look()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            time.sleep(_PAUSE_S if left else 0)
    return None


def exists(path: AnyPath) -> bool:
    """Whether there is a file or folder at `path`."""
    return present(partial(os.stat, path)) is not None


def read(path: AnyPath) -> bytes | None:
    """The content of a file, None if it does not exist."""
    return present(partial(_content, path))


def _content(path: AnyPath) -> bytes:
    # In two thirds of the time of open(): a status of 10,000 runs reads 30,000 files.
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(partial(os.read, file, _PIECE), b""))
    finally:
        os.close(file)


def remove(path: Path) -> None:
    """Delete a file if it exists."""
    present(path.unlink)


def write_atomic(
    path: Path, write: Callable[[IO[bytes]], object], *, drafts: Path | None = None
) -> None:
    """Call `write` with a temporary file, beside `path` or in the folder `drafts`, then rename it
    to `path`. Raises OSError or what `write` raises; `path` then keeps its old content, and the
    temporary file is removed."""
    if drafts is None:
        drafts = path.parent
        drafts.mkdir(parents=True, exist_ok=True)
    draft = drafts / f".{path.name}.{uuid.uuid4().hex[:8]}"
    try:
        with open(draft, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        remove(draft)


def copy_atomic(path: Path, target: Path, *, drafts: Path) -> None:
    """Atomically replace `target` by the content of `path`: by a hard link, or a copy if the disk
    has no hard links across folders."""
    draft = drafts / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        try:
            os.link(path, draft)
        except OSError:
            shutil.copyfile(path, draft)
        os.replace(draft, target)
    finally:
        remove(draft)


def write_text(path: Path, text: str) -> None:
    """Atomically replace `path` by `text`, UTF-8."""
    write_atomic(path, lambda file: file.write(text.encode()))


def read_end(path: Path, most: int) -> bytes:
    """The last `most` bytes of a file, or all of a smaller one; b"" if there is no such file."""

    def read() -> bytes:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            return file.read()

    return present(read) or b""


def set_aside(path: Path) -> None:
    """Rename a damaged file to `<name>.damaged`, for a person to look at; replaces an older one."""
    present(partial(os.replace, path, aside(path)))


def aside(path: Path) -> Path:
    """The path at which a damaged file is kept."""
    return path.with_name(f"{path.name}.damaged")
