"""What `sweep tune` does: workers for the searches of a grid, on this machine or a cluster.
Repeating it is safe: trials that are done or under way stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from core.config import ConfigError
from core.data import inputs
from core.store.folders import Store, SweepDir, write_json
from slurm.profile import Profile
from sweep.grid import Grid, search, select
from sweep.grid.search import Progress, Search
from sweep.inputs import pretrained
from sweep.state import breaker, pending
from sweep.state.pending import Pending
from sweep.submit import backends, submissions, watcher
from sweep.submit.backends import Crew, Started
from sweep.tune.order import Trials
from sweep.tune.table import brief, table
from sweep.tune.winners import by_run

SPARE = 3
"""Workers started in the place of dead ones, per search."""


def searches(grid: Grid, store: Store, only: Sequence[str] = ()) -> list[Search]:
    """Those of the runs that match every filter, in the order of the grid. Raises ConfigError for a
    grid without `tune:`, or a filter that fits none of its runs."""
    if grid.tune is None:
        raise ConfigError(f"{grid.path}: has no `tune:` block, nothing to search")
    found = by_run(grid, store)
    return list({found[run.id].id: found[run.id] for run in select(grid.runs, only)}.values())


def look(wanted: Sequence[Search]) -> list[Progress]:
    """How far searches are; those that are through get their winner recorded."""
    return [search.conclude(one) for one in wanted]


def tune(
    grid: Grid,
    store: Store,
    profile: Profile,
    *,
    only: Sequence[str] = (),
    workers: int | None = None,
    console: Console,
) -> list[Progress]:
    """Put workers on what the searches lack; returns how far these are, on a cluster as soon as it
    has taken the jobs. workers: at the same time, by default one per search on a cluster and the
    profile's here. Raises ConfigError, ClusterError, StoppedError."""
    wanted = searches(grid, store, only)
    _check(wanted, store, profile)
    sweep = _record(grid, wanted, store)
    with submissions.turn(sweep):
        left = [seen.search for seen in look(wanted) if not seen.over]
        busy = len(at_work(sweep))
        if busy:
            console.print(f"{busy} workers are at work on it already")
        backend = backends.of(profile.executor)
        if not left or (busy and not backend.queued):
            return look(wanted)
        breaker.close(sweep)
        order = Trials(sweep, store, profile, left, busy, workers)
        started = backend.start(order)
    if started.here:
        started.here(console)
    if started.crew:
        return _attend(started.crew, wanted, grid, console)
    _say_queued(started, order, console)
    return look(wanted)


def _say_queued(started: Started[Trials], order: Trials, console: Console) -> None:
    lacking = sum(part.jobs for part in started.left)
    if lacking:
        console.print(f"{lacking} workers do not fit yet ({started.cap}); tune again later")
    if started.arrays:
        tasks, names = sum(started.arrays.values()), ", ".join(started.arrays)
        console.print(f"{tasks} workers on {len(order.searches)} searches: arrays {names}")


def _check(wanted: Sequence[Search], store: Store, profile: Profile) -> None:
    if profile.ranks > 1:
        raise ConfigError(
            f"profile {profile.name}: a trial trains in one process, expected gpus_per_run: 1, "
            f"got {profile.gpus_per_run}"
        )
    configs = (one.config for one in wanted)
    problems = inputs.missing(configs, store, hub=pretrained.required_hub(profile))
    if problems:
        raise ConfigError(*problems)


def folder(grid: Grid, store: Store) -> SweepDir:
    """Submissions and logs of a grid's searches: a sweep's folder within the sweep's folder."""
    return SweepDir(store.sweep(grid.name).path / "tune")


def _record(grid: Grid, wanted: Sequence[Search], store: Store) -> SweepDir:
    """Write what is searched. Raises ConfigError where the store cannot be written."""
    sweep = folder(grid, store)
    try:
        sweep.logs.mkdir(parents=True, exist_ok=True)
        for one in wanted:
            write_json(one.path / "search.json", one.to_dict())
    except OSError as error:
        raise ConfigError(f"{store.root}: cannot write there ({error.strerror})") from None
    return sweep


def at_work(sweep: SweepDir) -> list[Pending]:
    """Workers of earlier submissions that run or wait to run."""
    known = backends.states(dict(enumerate(pending.workers(sweep)))).values()
    return [item for item in known if item.live]


def stop(grid: Grid, store: Store) -> int:
    """Ask the workers of a grid's searches to stop, and returns their number; trials under way
    keep their checkpoints. Raises ClusterError."""
    working = at_work(folder(grid, store))
    backends.stop(working)
    return len(working)


def _attend(crew: Crew, wanted: Sequence[Search], grid: Grid, console: Console) -> list[Progress]:
    """Show how far the searches are until every worker has ended."""
    return watcher.attend(
        crew,
        console,
        lambda working: look(wanted),
        show=lambda seen, _: table(seen, grid),
        brief=brief,
        left=lambda seen: any(not one.over and one.waiting for one in seen),
        spare=SPARE * len(wanted),
        every=1.0,
    )
