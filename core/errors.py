"""What can go wrong, as one tree of exceptions, and the messages of others as one line for people.

    ValueError
      ConfigError       input, or a profile, that cannot be run: one sentence per problem
        RefusedError    an archive that is no release of a dataset, but an attempt at something else
      DamagedError      a file of the store that is not what it should be
    RuntimeError
      DivergedError     the training loss became infinite or NaN
      StaleError        a run was begun from other inputs than it would go on from
      TeamError         another process of the team is gone
      NotOwnedError     another process took the run over
      AlienError        somebody else could have written what a job is to run
      ClusterError      Slurm refused, or is not there
    BaseException       no `except Exception` on the way may catch these
      StoppedError      a signal asked this process to stop
      CancelledError    the run in hand is to be left

Torch-free, so that whoever starts, watches or sorts runs can tell these apart by class.
"""

from __future__ import annotations

import re
from pathlib import Path

LONGEST = 300
"""Characters of a message that are kept: some print whole tensors."""
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
"""Colours and bold face, which torch puts into some messages."""


class ConfigError(ValueError):
    """Input that cannot be run. `lines` holds one finished sentence per problem."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class RefusedError(ConfigError):
    """An archive that is no release, but an attempt at something else."""


class DamagedError(ValueError):
    """A file of the store that is not what it should be: cut off, overwritten, of another shape."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: damaged, {reason}")
        self.path, self.reason = path, reason


class DivergedError(RuntimeError):
    """The training loss became infinite or NaN."""


class StaleError(RuntimeError):
    """A run was begun from other inputs than it would go on from."""


class TeamError(RuntimeError):
    """Another process of the team is gone, or did not do its part."""


class NotOwnedError(RuntimeError):
    """Another process took the run over; this one cannot change its folder any more."""


class AlienError(RuntimeError):
    """Somebody else could have written what a job is to run."""


class ClusterError(RuntimeError):
    """Slurm refused, or is not there; its own words on one line."""


class StoppedError(BaseException):
    """A signal asked this process to stop; no `except Exception` on the way may catch that."""


class CancelledError(BaseException):
    """The run in hand is to be left; the worker goes on with the next one."""


def first_line(error: BaseException) -> str:
    """The first line of a message, with the next one if it ends in a colon ("Error(s) in loading
    state_dict for ResNet:" says nothing alone); the type's name if there is no message."""
    lines = [line.strip() for line in ESCAPES.sub("", str(error)).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:LONGEST]


def beginning(file: Path) -> str:
    """What a file of the wrong kind is, by its first bytes: "begins with '<html>404'"."""
    try:
        with open(file, "rb") as content:
            start = content.read(40)
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    if not start:
        return "an empty file"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself; run: git lfs pull"
    text = start.decode("ascii", "replace").splitlines()[0]
    return f"begins with {text!r}" if text.isprintable() and "\ufffd" not in text else "binary data"


def counted(count: int, noun: str) -> str:
    """'1 run', '2 runs', '0 searches', '3 retries'."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}{'es' if noun.endswith(('s', 'x', 'rch')) else 's'}"
