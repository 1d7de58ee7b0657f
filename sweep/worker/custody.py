"""What a job runs is its user's alone: code, tasks and manifests in a folder that others share.

In a folder of results that a group writes to (umask 002), every member may replace files. What the
launcher hands to its jobs is therefore written so that only its user can change it, and a job
refuses what somebody else owns or could have written. Runs, logs and grids stay the group's.
"""

from __future__ import annotations

import json
import os
import pickle
import shlex
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from core.config import ConfigError
from core.errors import AlienError
from core.store.files import exists, write_text
from core.store.json_files import parse_json

OWNER = "EPSWEEP_OWNER"
"""The user id that a batch script was submitted under, as the file system of the store tells it."""
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def own() -> Iterator[None]:
    """What this process writes meanwhile, only its user can change, in every group."""
    before = os.umask(0o077)
    os.umask(before | _OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows for jobs to read, one JSON object a line."""
    with own():
        write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read(path: Path) -> bytes:
    """What is in a file. Raises AlienError in a job if somebody else could have written it."""
    with open(path, "rb") as file:
        problem = _problem(path, os.fstat(file.fileno()))
        if OWNER in os.environ and problem:
            raise AlienError(problem)
        return file.read()


def rows(path: Path, shape: object) -> list[dict[str, Any]]:
    """The rows that `write` wrote, [] if the file is gone. Raises AlienError, DamagedError."""
    lines = read(path).splitlines() if exists(path) else []
    return [parse_json(line, path, shape) for line in lines]


def is_own(folder: Path) -> bool:
    """Whether only this user could have written what is in a folder."""
    paths = [folder, *folder.rglob("*")]
    return not any(_problem(path, path.lstat()) for path in paths)


class _Plain(pickle.Unpickler):
    """Reads numbers, texts and containers; looks up no class and no function."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name}: expected plain values")


def outcome(result: Path) -> str | None:
    """How a worker ended, 'success' or 'error', by the file in which submitit leaves its result;
    None if there is none to be read. Every member of a group can replace that file, and unpickling
    it would run what they put there: nothing of it is run."""
    try:
        with open(result, "rb") as file:
            ending, _ = _Plain(file).load()
    except Exception:  # a damaged pickle can raise nearly anything
        return None
    return ending if ending in ("success", "error") else None


def _problem(path: Path, found: os.stat_result) -> str | None:
    user = int(os.environ.get(OWNER, os.geteuid()))
    if found.st_uid not in (0, user):
        return f"{path}: refused, it belongs to user {found.st_uid}, the job to {user}"
    if found.st_mode & _OTHERS:
        return f"{path}: refused, others than its user may write to it"
    return None


def guard(code: Path) -> list[str]:
    """Lines of a batch script, which Slurm keeps out of reach of others: they end the job before
    it imports code that somebody else could have written. Raises ConfigError if that would always
    be so."""
    if code.exists() and code.stat().st_mode & _OTHERS:
        raise ConfigError(
            f"{code}: others may write there, whatever mode is set: jobs would refuse it"
        )
    user = code.stat().st_uid if code.exists() else os.geteuid()
    alien = f"find {shlex.quote(str(code))} ! -uid {user} ! -uid 0 -o -perm /022"
    return [
        f"export {OWNER}={user}",
        f'alien="$({alien} 2>&1 | head -n 1)"',
        '[ -z "$alien" ] || { echo "refused, others could have written: $alien" >&2; exit 1; }',
    ]
