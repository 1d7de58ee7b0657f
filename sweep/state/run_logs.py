"""Finding and reading the log of one run, or of the Slurm job that was to run it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from core.config import ConfigError, nearest
from core.store.folders import RunDir, Store
from core.store.holder import find_holder
from sweep.state import joblog, pending
from sweep.state.pending import Pending


def find(store: Store, name: str) -> RunDir:
    """The run whose id is `name` or begins with it. Raises ConfigError if none or several do."""
    begun = [path.name for path in store.runs.iterdir()] if store.runs.is_dir() else []
    names = sorted({*begun, *promised(store)})
    matches = [name] if name in names else [item for item in names if item.startswith(name)]
    if len(matches) == 1:
        return store.run(matches[0])
    if matches:
        more = ", ..." if len(matches) > 4 else ""
        some = ", ".join(matches[:4])
        raise ConfigError(f"'{name}' matches {len(matches)} run ids: {some}{more}")
    hint = nearest(name, names) if names else f" ({store.runs} holds none)"
    raise ConfigError(f"no run '{name}'{hint}")


def promised(store: Store) -> dict[str, Pending]:
    """Run id -> the Slurm job of any sweep that was submitted for it."""
    found: dict[str, Pending] = {}
    for sweep in store.sweeps():
        promises = pending.promises(sweep)
        found |= {run: promise for run, promise in promises.items() if promise.logs}
    return found


def read(store: Store, run: RunDir, *, follow: bool) -> Iterator[str]:
    """The run's log so far; with `follow`, also what is added until no process works on it. If no
    process has begun the run, or the last one died without recording a reason, its job's log
    follows.

    Raises ConfigError if there is no log at all.
    """
    promise = promised(store).get(run.id)
    said = joblog.tail(joblog.path(promise.logs, promise.job)) if promise and promise.logs else ""
    if not run.log.is_file() and not said:
        waiting = f": job {promise.job} has not begun" if promise else ""
        raise ConfigError(f"{run.id}: has no log yet{waiting}")
    if run.log.is_file():
        yield from _growing(run, follow=follow)
    current = find_holder(run)
    silent = current is None or not (current.live or current.outcome)
    if promise and said and silent:
        yield f"-- job {promise.job} --\n{said}"


def _growing(run: RunDir, *, follow: bool) -> Iterator[str]:
    with open(run.log, encoding="utf-8", errors="replace") as file:
        yield file.read()
        while follow:
            current = find_holder(run)
            piece = file.read()
            if piece:
                yield piece
            elif current is None or not current.live:
                return
            else:
                time.sleep(0.5)
