"""Ensures that only the newest attempt changes a run folder, whatever earlier ones still try.

A process may be suspended between any two steps (SIGSTOP, a hung disk), lose its run to another
process, and wake up again: a check of ownership proves nothing about the moment of its next write.
Therefore attempt n has a folder for drafts in the run folder, and

1. every file is written there, then renamed to its place;
2. every file to delete is renamed into it, then removed there;
3. a process that takes the run over removes the folders of all earlier attempts before it reads
   anything.

A rename is atomic on the file server and fails if a folder at either end is gone. So nothing that
an earlier attempt does after 3 changes a file; it gets NotOwnedError. A node's cache of names
cannot bypass this: the server rejects a removed folder both by name and by handle.

Nor can a folder be created too late: attempt n creates its claim, then its folder, then looks for
higher claims; its successor creates its claim, then looks for folders. One of them sees the other.
"""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from core.errors import NotOwnedError
from core.store.files import copy_atomic, is_gone, present, write_atomic

_DRAFTS = re.compile(r"\.drafts-(\d+)-")
_CLAIM = re.compile(r"claim-(\d+)\.json$")
_TRIES = 100
"""Tries to empty a folder, in which a running process may keep creating drafts."""


@dataclass(frozen=True)
class Fence:
    """The only way in which an attempt changes its run folder. Every method may raise OSError, and
    NotOwnedError once another attempt has taken over."""

    drafts: Path
    attempt: int

    @classmethod
    def open(cls, run: Path, attempt: int) -> Fence:
        """Create the folder of an attempt. Its name is unique, since a run folder that was deleted
        and created again counts its attempts from 1."""
        drafts = run / f".drafts-{attempt:04d}-{uuid.uuid4().hex[:8]}"
        drafts.mkdir()
        return cls(drafts, attempt)

    def holds(self) -> bool:
        """Whether no other attempt has taken over. Raises OSError if that cannot be determined."""
        try:
            os.stat(self.drafts)
        except (FileNotFoundError, NotADirectoryError):
            return False
        # Versions without fences take a run over without removing folders: check claims, too.
        return newest_attempt(self.drafts.parent) <= self.attempt

    def write(self, path: Path, write: Callable[[IO[bytes]], object]) -> None:
        """Write a file as write_atomic does."""

        def owned(file: IO[bytes]) -> None:
            write(file)
            if not self.holds():
                raise self._lost()

        with self._owned():
            if path.parent != self.drafts.parent:
                path.parent.mkdir(exist_ok=True)
            write_atomic(path, owned, drafts=self.drafts)

    def copy(self, path: Path, target: Path) -> None:
        """Atomically replace `target` by the content of `path`."""
        with self._owned():
            copy_atomic(path, target, drafts=self.drafts)

    def remove(self, path: Path) -> None:
        """Delete a file if it exists."""
        gone = self.drafts / f"{path.name}.{uuid.uuid4().hex[:8]}"
        with self._owned():
            if not self.holds():
                raise self._lost()
            try:
                os.rename(path, gone)
            except OSError as error:
                if is_gone(error) and self.holds():  # nothing was there
                    return
                raise
        present(gone.unlink)

    def close(self) -> None:
        """Remove the folder and whatever failed writes have left in it."""
        _raze(self.drafts)

    @contextmanager
    def _owned(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_gone(error) and not self.holds():
                raise self._lost() from None
            raise

    def _lost(self) -> NotOwnedError:
        run = self.drafts.parent.name
        return NotOwnedError(f"{run}: another process has taken this run over")


def newest_attempt(run: Path, names: Iterable[str] | None = None) -> int:
    """The highest attempt number claimed in a run folder, 0 if there is none. names: those in the
    folder, if the caller has listed it."""
    return max(_numbered(run, _CLAIM, names).values(), default=0)


def newest_drafts(run: Path) -> int:
    """The highest attempt that has a folder of drafts, 0 if none has."""
    return max(_numbered(run, _DRAFTS).values(), default=0)


def shut_out(run: Path, attempt: int) -> None:
    """Remove the folders of all attempts before this one."""
    for name, number in _numbered(run, _DRAFTS).items():
        if number < attempt:
            _raze(run / name)


def _numbered(
    run: Path, pattern: re.Pattern[str], names: Iterable[str] | None = None
) -> dict[str, int]:
    """Name -> number of the entries of a folder whose names begin as `pattern` says."""
    names = names if names is not None else present(partial(os.listdir, run)) or []
    return {match.string: int(match[1]) for match in map(pattern.match, names) if match}


def _raze(folder: Path) -> None:
    # Renamed first: if a stopped process on this node has a draft open, NFS keeps the file and thus
    # the folder until the process ends, but the process cannot find them under the old path.
    aside = folder.with_name(f"{folder.name}.gone")
    with suppress(OSError):
        os.rename(folder, aside)
    for path in (folder, aside):
        for _ in range(_TRIES):
            names = present(partial(os.listdir, path)) or []
            kept = [name for name in names if not name.startswith(".nfs")]
            for name in kept:
                present((path / name).unlink)
            try:
                present(path.rmdir)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                    raise
                if path == aside and not kept:
                    break
        else:
            raise OSError(errno.ENOTEMPTY, "another process keeps writing into it", str(folder))
