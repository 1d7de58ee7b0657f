"""Protects what a job executes (code, tasks, manifests) in a folder that others may write to.

In a results folder that a group writes to (umask 002), every member can replace files. So the
launcher writes what its jobs will execute such that only its user can change it, and a job refuses
files that another user owns or could have written. Runs, logs and grids stay writable by the group.
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
"""Environment variable of jobs: the id of the user who submitted them, as the store's file system
reports it."""
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@contextmanager
def own() -> Iterator[None]:
    """Context manager: files are created so that only their user can write to them."""
    before = os.umask(0o077)
    os.umask(before | _OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows for jobs to read, one JSON object per line, writable only by their user."""
    with own():
        write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read(path: Path) -> bytes:
    """The content of a file. Raises AlienError in a job if another user could have written it."""
    with open(path, "rb") as file:
        problem = _problem(path, os.fstat(file.fileno()))
        if OWNER in os.environ and problem:
            raise AlienError(problem)
        return file.read()


def rows(path: Path, shape: object) -> list[dict[str, Any]]:
    """The rows that `write` wrote; [] if the file is gone. Raises AlienError, DamagedError."""
    lines = read(path).splitlines() if exists(path) else []
    return [parse_json(line, path, shape) for line in lines]


def is_own(folder: Path) -> bool:
    """Whether only this user could have written the folder and everything in it."""
    paths = [folder, *folder.rglob("*")]
    return not any(_problem(path, path.lstat()) for path in paths)


class _Plain(pickle.Unpickler):
    """Unpickles numbers, strings and containers; refuses classes and functions."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name}: expected plain values")


def outcome(result: Path) -> str | None:
    """How a worker ended, 'success' or 'error', from the pickle that submitit writes as its result;
    None if it cannot be read. As others may have replaced that file, no code in it is run."""
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
        return f"{path}: refused, other users may write to it"
    return None


def guard(code: Path) -> list[str]:
    """Lines of a batch script (Slurm's copy, which others cannot change) that end the job before it
    imports code that another user could have written. Raises ConfigError if they would always do
    so."""
    if code.exists() and code.stat().st_mode & _OTHERS:
        raise ConfigError(
            f"{code}: expected a file system that honours file modes, but others may write here: "
            "jobs would refuse this code"
        )
    user = code.stat().st_uid if code.exists() else os.geteuid()
    alien = f"find {shlex.quote(str(code))} ! -uid {user} ! -uid 0 -o -perm /022"
    return [
        f"export {OWNER}={user}",
        f'alien="$({alien} 2>&1 | head -n 1)"',
        '[ -z "$alien" ] || { echo "refused, others could have written: $alien" >&2; exit 1; }',
    ]
