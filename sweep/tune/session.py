"""What `sweep tune` does: start workers for the searches of a grid, on this machine or a cluster.
Repeating it is safe: it leaves alone trials that are done or under way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rich.console import Console

from core.config import ConfigError
from core.errors import counted
from core.store.claims import shared_clock
from core.store.folders import Store, SweepDir
from core.store.holder import find_holder
from core.store.json_files import write_json
from slurm.profile import Profile
from sweep.grid import Grid, search, select_runs
from sweep.grid.search import REAL, Progress, Search, Trial
from sweep.inputs import needs
from sweep.state import breaker, decision, pending, repair
from sweep.state.decision import Facts
from sweep.state.pending import Pending
from sweep.state.status import State
from sweep.submit import backends, submissions, watcher
from sweep.submit.backend import Crew, Started
from sweep.tune.order import Trials
from sweep.tune.table import brief, tabulate
from sweep.tune.winners import by_run

SPARE = 3
"""Maximum number of replacements for workers that died, per search."""


def searches(grid: Grid, store: Store, only: Sequence[str] = ()) -> list[Search]:
    """The searches of the runs that match every filter, in the grid's order. Raises ConfigError for
    a grid without `tune:` or a filter that matches no run."""
    if grid.tune is None:
        raise ConfigError(f"{grid.path}: expected a `tune:` block, which says what to search")
    if not grid.tune.trials:
        what = "tune.trials is 0: nothing to search, every run takes one random draw"
        raise ConfigError(f"{grid.path}: {what}")
    found = by_run(grid, store)
    return list({found[run.id].id: found[run.id] for run in select_runs(grid.runs, only)}.values())


def look(
    wanted: Sequence[Search], workers: Sequence[Pending] = (), clock: float | None = None
) -> list[Progress]:
    """The progress of searches; records the winners of those whose budget is used up. workers:
    their jobs' states, which explain why trials are stuck. clock: the file server's time, by
    default this machine's."""
    jobs = {item.job: item for item in workers if item.name}
    found = []
    for one in wanted:
        seen = search.conclude(one)
        trials = [_explained(one, trial, jobs, clock) for trial in seen.trials]
        found.append(replace(seen, trials=trials))
    return found


def _explained(
    one: Search, trial: Trial, jobs: Mapping[str, Pending], clock: float | None
) -> Trial:
    """The trial; if it was begun and has not ended, with state and reason from its worker's job, by
    the same rules as for runs (sweep.state.decision)."""
    current = find_holder(one.trial_dir(trial.number), clock=clock)
    if trial.state in REAL or current is None:
        return trial
    promise = jobs.get(str(current.info.get("job")))
    damaged = search.damage(one.trial_dir(trial.number))
    facts = Facts(one.config.epochs, current, promise, damaged=damaged)
    state, told = decision.decide(facts)
    return replace(
        trial,
        state="pending" if state is State.PENDING else trial.state,
        kind=told.get("kind"),
        reason=told.get("reason"),
        job=told.get("job"),
    )


def tune(
    grid: Grid,
    store: Store,
    profile: Profile,
    *,
    only: Sequence[str] = (),
    workers: int | None = None,
    again: Callable[[Trial], bool] | None = None,
    console: Console,
) -> list[Progress]:
    """Start workers for the trials that the searches lack; returns the searches' progress, on a
    cluster as soon as the jobs are queued. workers: maximum number at a time, by default one per
    search on a cluster and the profile's number here. again: selects the trials to do, even if
    other workers have them; by default, all that are left. Raises ConfigError, ClusterError,
    StoppedError.
    """
    wanted = searches(grid, store, only)
    check(wanted, store, profile)
    sweep = record(grid, wanted, store)
    with submissions.turn(sweep):
        # The file system's clock: if this machine's were ahead, healthy workers would seem hung and
        # be ended.
        working = at_work(sweep)
        seen = look(wanted, working, shared_clock(sweep.path))
        numbers = {
            one.search.id: [trial.number for trial in one.trials if again is None or again(trial)]
            for one in seen
        }
        left = [one.search for one in seen if not one.over and numbers[one.search.id]]
        busy = len(working) - _end_hung(seen, working, console)
        if busy:
            console.print(f"{counted(busy, 'worker')} already at work on it")
        backend = backends.of(profile.executor)
        if again and not left:
            console.print("nothing to retry: no such trial in an unfinished search")
        if not left or (busy and not backend.queued):
            return seen
        breaker.close(sweep)
        order = Trials(sweep, store, profile, left, numbers, 0 if again else busy, workers)
        started = backend.start(order)
    if started.here:
        started.here(console)
    if started.crew:
        return _attend(started.crew, wanted, grid, console)
    _say_queued(started, order, console)
    return look(wanted)


def retry(
    grid: Grid,
    store: Store,
    profile: Profile,
    *,
    only: Sequence[str] = (),
    kind: str | None = None,
    console: Console,
) -> list[Progress]:
    """Start workers for trials that failed, were interrupted or are damaged, and for no others.
    kind: only this class of failure or interruption. Raises as `tune`."""
    kinds = repair.classes(kind)

    def again(trial: Trial) -> bool:
        return trial.state in ("failed", "interrupted") and (kinds is None or trial.kind in kinds)

    return tune(grid, store, profile, only=only, again=again, console=console)


def _say_queued(started: Started[Trials], order: Trials, console: Console) -> None:
    lacking = sum(part.jobs for part in started.left)
    if lacking:
        without = counted(lacking, "worker")
        console.print(f"no room yet for {without} ({started.cap}); repeat the command later")
    if started.arrays:
        tasks, names = sum(started.arrays.values()), ", ".join(started.arrays)
        searches = counted(len(order.searches), "search")
        console.print(f"{counted(tasks, 'worker')} on {searches}: arrays {names}")


def check(wanted: Sequence[Search], store: Store, profile: Profile) -> None:
    """Raise ConfigError if the searches cannot run under a profile, or lack data or weights."""
    if profile.ranks > 1:
        raise ConfigError(
            f"profile {profile.name}: a trial trains in one process: expected gpus_per_run: 1, "
            f"got {profile.gpus_per_run}"
        )
    needs.require([one.config for one in wanted], store, profile)


def folder(grid: Grid, store: Store) -> SweepDir:
    """The folder for submissions and logs of a grid's searches, within the sweep's folder."""
    return SweepDir(store.sweep(grid.name).path / "tune")


def record(grid: Grid, wanted: Sequence[Search], store: Store) -> SweepDir:
    """Write each search's search.json; returns the folder for submissions. Raises ConfigError if
    the store cannot be written to."""
    sweep = folder(grid, store)
    with submissions.writing(store):
        sweep.logs.mkdir(parents=True, exist_ok=True)
        for one in wanted:
            write_json(one.path / "search.json", one.to_dict())
    return sweep


def _end_hung(seen: Sequence[Progress], working: Sequence[Pending], console: Console) -> int:
    """End the jobs of workers that hang in a trial, so that others can resume it; returns their
    number. Raises ClusterError."""
    hung = {trial.job for one in seen for trial in one.trials if trial.kind == "hung"}
    ended = [item for item in working if item.name and item.job in hung]
    if ended:
        backends.stop(ended)
        console.print(f"ended {counted(len(ended), 'worker')} that hung in a trial")
    return len(ended)


def workers(sweep: SweepDir) -> list[Pending]:
    """Every worker ever submitted, with its state according to its backend."""
    return [*backends.states(dict(enumerate(pending.workers(sweep)))).values()]


def at_work(sweep: SweepDir) -> list[Pending]:
    """Workers of earlier submissions that are running or queued."""
    return [item for item in workers(sweep) if item.live]


def stop(grid: Grid, store: Store) -> int:
    """Ask the workers of a grid's searches to stop; returns their number. Trials under way keep
    their checkpoints. Raises ClusterError."""
    working = at_work(folder(grid, store))
    backends.stop(working)
    return len(working)


def _attend(crew: Crew, wanted: Sequence[Search], grid: Grid, console: Console) -> list[Progress]:
    """Show the searches' progress until every worker has ended."""
    return watcher.attend(
        crew,
        console,
        lambda working: look(wanted),
        show=lambda seen, _: tabulate(seen, grid),
        brief=brief,
        left=lambda seen: any(not one.over and one.waiting for one in seen),
        spare=SPARE * len(wanted),
        every=1.0,
    )
