"""The project's exceptions as one tree, and one-line messages from other libraries' exceptions.

    ValueError
      ConfigError       a grid, profile or other input that cannot be run: one sentence per problem
        RefusedError    an archive that looks like an attack, not like a release of a dataset
      DamagedError      a file of the store with unexpected content
    RuntimeError
      DivergedError     the training loss became infinite or NaN
      StaleError        the inputs of a run have changed since it began
      TeamError         another process of the same run is gone
      NotOwnedError     another process took the run over
      AlienError        somebody else could have written what a job is to run
      ClusterError      Slurm refused a request, or does not answer
    BaseException       so that no `except Exception` catches these
      StoppedError      a signal asked this process to stop
      CancelledError    the user cancelled the current run

Torch-free, so that planning, status and workers can distinguish failures by class.
"""

from __future__ import annotations

import re
from pathlib import Path

LONGEST = 300
"""Characters of a message that are kept; some exceptions print whole tensors."""
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
"""Terminal codes for colours and bold face, which torch puts into some messages."""


class ConfigError(ValueError):
    """Input that cannot be run. `lines` holds one complete message per problem."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class RefusedError(ConfigError):
    """An archive that looks like an attack, such as members outside its folder."""


class DamagedError(ValueError):
    """A file of the store with unexpected content: truncated, overwritten, of another shape."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: damaged, {reason}")
        self.path, self.reason = path, reason


class DivergedError(RuntimeError):
    """The training loss became infinite or NaN."""


class StaleError(RuntimeError):
    """The inputs of a run have changed since it began, so it must not be continued."""


class TeamError(RuntimeError):
    """Another process of the same run is gone, or did not do its part."""


class NotOwnedError(RuntimeError):
    """Another process took the run over; this one cannot change its folder any more."""


class AlienError(RuntimeError):
    """Somebody else could have written what a job is to run."""


class ClusterError(RuntimeError):
    """Slurm refused a request or does not answer; the message quotes it on one line."""


class StoppedError(BaseException):
    """A signal asked this process to stop. A BaseException, so that no `except Exception` catches
    it."""


class CancelledError(BaseException):
    """The user cancelled the current run; the worker goes on with the next one."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, plus the second if the first ends in a colon, as in
    "Error(s) in loading state_dict for ResNet:"; the class name if there is no message."""
    lines = [line.strip() for line in ESCAPES.sub("", str(error)).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:LONGEST]


def beginning(file: Path) -> str:
    """Describes a file of the wrong kind by its first bytes: "begins with '<html>404'"."""
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
