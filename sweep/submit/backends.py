"""Which backend jobs run on: one file each, found by the executor of a profile or of a record.

A launch orders (`start`), status asks (`states`), cancel and retry end and free jobs (`stop`,
`release`), doctor asks for `checks`. None of them knows a backend by its name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import assert_never

from slurm.profile import home_of
from sweep.state.pending import Pending
from sweep.submit.backend import Backend, Key


def of(executor: str) -> Backend:
    """The backend of a profile's, or a record's, executor."""
    match home := home_of(executor):  # only the one that is asked for: submitit takes 0.1 s
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
    """The same promises, in the same order, with what the backend of each says of it."""
    answers: dict[Key, Pending] = dict(promised)
    for executor, members in _by_executor(promised).items():
        answers |= of(executor).states(members)
    return answers


def stop(promised: Collection[Pending]) -> None:
    """End these jobs, wherever they run. Raises ClusterError."""
    for executor, members in _by_executor(dict(enumerate(promised))).items():
        of(executor).stop(members.values())


def release(promised: Collection[Pending]) -> None:
    """Free these jobs, wherever they are held. Raises ClusterError."""
    for executor, members in _by_executor(dict(enumerate(promised))).items():
        of(executor).release(sorted({item.job for item in members.values()}))


def _by_executor(promised: Mapping[Key, Pending]) -> dict[str, dict[Key, Pending]]:
    groups: dict[str, dict[Key, Pending]] = defaultdict(dict)
    for key, item in promised.items():
        groups[item.executor][key] = item
    return groups
