"""Files on a disk that nodes share: atomic writes, and reads that bear with what is gone.

A file is written beside its place, flushed to disk, then renamed over it: a reader sees the old
content or the new one, never half of either, also when the disk fills up or the process dies.
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
"""How a file is written: write_atomic, or RunDir.write."""
_LOOKS = 4
_PAUSE_S = 0.05


def is_gone(error: OSError) -> bool:
    """Whether an error says that there is no such file, or no such folder (any more). NFS has a
    word of its own (ESTALE) for what another node has removed or replaced."""
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    return missing or error.errno == errno.ESTALE


def present(look: Callable[[], _T]) -> _T | None:
    """What `look` finds, None if the file or its folder is not there. What is stale may only have
    been replaced: look again, a few times. Raises any other OSError."""
    for left in reversed(range(_LOOKS)):
        try:
            return look()
        except OSError as error:
            if not is_gone(error):
                raise
            if error.errno != errno.ESTALE:
                break
            time.sleep(_PAUSE_S if left else 0)
    return None


def exists(path: Path) -> bool:
    """Whether there is a file or folder at `path`."""
    return present(path.stat) is not None


def remove(path: Path) -> None:
    """Delete a file if it is there."""
    present(path.unlink)


def write_atomic(
    path: Path, write: Callable[[IO[bytes]], object], *, drafts: Path | None = None
) -> None:
    """Call `write` on a temporary file, beside `path` or in the folder `drafts`, then rename it to
    `path`. Raises OSError; `path` keeps its old content then, and nothing is left behind."""
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
    """Atomically replace `target` by what is in `path`: a second name for it, or where the disk has
    no hard links across folders, a copy."""
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
    """The last bytes of a file, at most so many; none if there is no such file."""

    def read() -> bytes:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most))
            return file.read()

    return present(read) or b""


def set_aside(path: Path) -> None:
    """Rename a damaged file to `<name>.damaged`, for a person to look at; the newest one stays."""
    present(partial(os.replace, path, aside(path)))


def aside(path: Path) -> Path:
    """Where a damaged file is kept."""
    return path.with_name(f"{path.name}.damaged")
