"""Runs that begin with the weights of other runs: what they wait for, and who goes first.

`weights: {run: ...}` in a grid makes a run the child of another, its parent. A child can begin once
its parent has a result; until then every process leaves it alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from core.errors import DamagedError
from core.store.files import exists
from core.store.folders import RunDir, Store
from core.store.holder import find_holder
from core.store.json_files import read_json
from sweep.grid import Run
from sweep.state.pending import Ask, Pending

ENDS = {"failed": "failed", "cancelled": "was cancelled"}


def obstacle(parent: str | None, runs: Path) -> str | None:
    """Why a child of this run cannot begin: 'waiting for RUN', and how RUN ended if it failed;
    None if it can begin. runs: the store's folder `runs`."""
    if parent is None:
        return None
    folder = RunDir(runs / parent)
    try:
        if read_json(folder.result):
            return None
    except DamagedError:
        return f"waiting for {parent}, which is damaged"
    current = find_holder(folder)
    if current and current.live:
        return f"waiting for {parent}"
    outcome = "cancelled" if exists(folder.cancel) else current and current.outcome
    end = f", which {ENDS[outcome]}" if outcome in ENDS else ""
    return f"waiting for {parent}{end}"


def is_awaited(parent: str | None, runs: Path) -> bool:
    """Whether a process works on this run, so that its children have to wait."""
    if parent is None or obstacle(parent, runs) is None:
        return False
    current = find_holder(RunDir(runs / parent))
    return current is not None and current.live


def generations(runs: Iterable[Run], store: Store) -> list[list[Run]]:
    """The runs in the order in which they can be done: first those that can begin, then those that
    wait for them or for runs outside `runs`, and so on."""
    depth: dict[str, int] = {}
    found: list[list[Run]] = [[]]
    for run in runs:  # a grid lists every run after its parent
        waits = obstacle(run.config.parent, store.runs)
        depth[run.id] = depth.get(run.config.parent or "", 0) + 1 if waits else 0
        found += [[] for _ in range(len(found), depth[run.id] + 1)]
        found[depth[run.id]].append(run)
    return found


def arrays(runs: Iterable[Run], promised: Mapping[str, Pending], ask: Ask) -> dict[str, set[str]]:
    """Run id -> the queued job, or array of jobs, that will do its parent; runs whose parent has no
    such job are left out."""
    wanted = {run.id: promised.get(run.config.parent or "") for run in runs}
    told = ask({name: item for name, item in wanted.items() if item and item.name})
    return {name: {item.job.partition("_")[0]} for name, item in told.items() if item.live}
