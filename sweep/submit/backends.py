"""Which backend jobs run on: one file each, found by the executor of a profile or of a record.

A launch calls `start`, status calls `states`, cancel and retry call `stop` and `release`, doctor
asks for `checks`. None of them knows a backend by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import assert_never

from slurm.executors import home_of
from sweep.state.pending import Pending
from sweep.submit.backend import Backend, Key


def of(executor: str) -> Backend:
    """The backend for the executor of a profile or a record."""
    match home := home_of(executor):  # imports only the one asked for: submitit takes 0.1 s
        case "debug":
            from sweep.submit import in_process

            return in_process.BACKEND
        case "local":
            from sweep.submit import local

            return local.BACKEND
        case "slurm":
            from sweep.submit import array

            return array.BACKEND
        case "ray":
            from sweep.submit import ray

            return ray.BACKEND
        case "plug-in":
            from sweep.submit.plugin import Plugin

            return Plugin(executor)
        case _:
            assert_never(home)


def states(promised: Mapping[Key, Pending]) -> dict[Key, Pending]:
    """The same promises, in the same order, with states from their backends."""
    answers: dict[Key, Pending] = dict(promised)
    for executor, members in _by_executor(promised).items():
        answers |= of(executor).states(members)
    return answers


def stop(promised: Collection[Pending]) -> None:
    """End these jobs through their backends. Raises ClusterError."""
    for executor, members in _by_executor(dict(enumerate(promised))).items():
        of(executor).stop(members.values())


def release(promised: Collection[Pending]) -> None:
    """Release these held jobs through their backends. Raises ClusterError."""
    for executor, members in _by_executor(dict(enumerate(promised))).items():
        of(executor).release(sorted({item.job for item in members.values()}))


def _by_executor(promised: Mapping[Key, Pending]) -> dict[str, dict[Key, Pending]]:
    groups: dict[str, dict[Key, Pending]] = defaultdict(dict)
    for key, item in promised.items():
        groups[item.executor][key] = item
    return groups
