"""Submit what a grid's runs still lack: from a grid, a store and a profile to jobs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import get_args

from rich.console import Console
from rich.text import Text

from core.config import ConfigError, nearest
from core.data.digests import Known
from core.errors import ClusterError, counted
from core.options import Mode
from core.store.claims import shared_clock
from core.store.folders import Store, SweepDir
from slurm.profile import Profile, read_profile
from sweep import selection, summary
from sweep.estimate import cost
from sweep.grid import Grid, Run, select_runs
from sweep.inputs import needs
from sweep.state import breaker, pending, plan, repair
from sweep.state.plan import LAUNCHABLE, ON_REQUEST, REPAIRABLE, Plan, State, Status
from sweep.submit import backends, generations, submissions, watcher
from sweep.submit.backend import Started
from sweep.submit.cancellation import end_jobs, withdraw
from sweep.submit.order import Runs
from sweep.tune import winners
from sweep.worker.stop import stoppable

FEED_S = 30.0
"""Seconds between two checks whether the cluster accepts more jobs."""


def load_profile(
    name: str, *, max_parallel: int | None = None, tracking: str | None = None
) -> Profile:
    """A profile with the command line's overrides. Raises ConfigError for an unknown or bad one."""
    loaded, modes = read_profile(name), get_args(Mode)
    if tracking and tracking not in modes:
        raise ConfigError(f"tracking: expected one of {', '.join(modes)}, got {tracking!r}")
    if tracking:
        loaded = loaded.model_copy(update={"tracking": tracking})
    if max_parallel:
        loaded = backends.of(loaded.executor).limited(loaded, max_parallel)
    return loaded


def look(
    grid: Grid,
    store: Store,
    only: Sequence[str] = (),
    *,
    clock: float | None = None,
    known: Known | None = None,
    before: Plan | None = None,
) -> Plan:
    """The plan of a grid's runs, or of those that match every filter in `only`. clock, known,
    before: as in plan.make. Raises ConfigError for a filter that names no field or matches no
    run."""
    states, fields = _split(only)
    sweep, ask = store.sweep(grid.name), backends.states
    runs, promised = select_runs(grid.runs, fields), pending.promises(sweep)
    seen = plan.make(runs, store, promised, clock, known, ask, before)
    idle = {run.id for run in seen.of(LAUNCHABLE)}
    seen = plan.beside(seen, pending.elsewhere(store, sweep, idle, ask), store, clock)
    if states:
        seen = replace(seen, statuses=[s for s in seen.statuses if s.state in states])
    return seen


def _split(only: Sequence[str]) -> tuple[set[State], list[str]]:
    """The states asked for by `state=` filters, and the other filters."""
    states: set[State] = set()
    for item in only:
        if item.startswith("state="):
            for name in item.removeprefix("state=").split(","):
                if name not in list(State):
                    raise ConfigError(
                        f"--only {item}: unknown state '{name}'{nearest(name, State)}"
                    )
                states.add(State(name))
    return states, [item for item in only if not item.startswith("state=")]


def is_launchable(status: Status) -> bool:
    """Whether `launch` submits a run."""
    return status.state in LAUNCHABLE


def launch(
    grid: Grid,
    store: Store,
    profile: Profile,
    *,
    only: Sequence[str] = (),
    wanted: Callable[[Status], bool] = is_launchable,
    console: Console,
    wait: bool = True,
    feed_s: float | None = None,
) -> Plan | None:
    """Submit the wanted runs, by default those that are neither done nor on their way. Returns the
    final plan, or None if the runs were queued and are not waited for. Raises ConfigError,
    ClusterError.

    feed_s: if the cluster's limits leave runs without room, try again after this many seconds.
    """
    # Checked before the lock, so that a refused launch writes nothing. Under the lock only what is
    # not done is looked at again, as another launch may have submitted runs meanwhile.
    known = Known(store)
    seen = look(grid, store, only, known=known)
    require(grid, [s.run for s in seen.statuses if wanted(s)], store, profile)
    sweep, backend = submissions.record_grid(grid, store), backends.of(profile.executor)
    with submissions.turn(sweep):
        # The file system's clock: if this machine's were ahead, healthy jobs would seem hung and be
        # ended.
        clock = shared_clock(sweep.path)
        seen = look(grid, store, only, clock=clock, known=known, before=seen)
        _release(seen, console)
        chosen = selection.choose(seen, wanted)
        console.print(summary.of(grid, seen, cost.of(profile, store, grid.about.get("hardware"))))
        taken = {status.run.id for status in chosen}  # comparing each with each takes 2 s for 1,440
        _say_stale([status for status in seen.statuses if status.run.id not in taken], console)
        runs = selection.repaired(chosen, store, profile, console)
        runs = selection.startable(runs, grid, seen, store, console)
        if not runs:
            console.print(_nothing(seen))
            return None if backend.queued and not seen.of(LAUNCHABLE | REPAIRABLE) else seen
        withdraw(runs, store)
        end_jobs([status.run for status in chosen if status.kind == "hung"], seen, store)
        breaker.close(sweep)
        started = generations.start(Runs(sweep, store, profile, runs, seen.behind))
    if backend.queued:
        _say_queued(started, runs, grid, store, console)
        if feed_s is not None:
            _feed(_left(started), wanted, grid, store, profile, console, feed_s)
        return None
    if started.here:
        started.here(console)
    elif started.crew and wait:
        watcher.wait(started.crew, runs, store, console)
    else:
        how = grid.command("status", store, "--watch")
        started_runs = counted(len(runs), "run")
        console.print(Text(f"{started_runs} started; watch with: {how}"), soft_wrap=True)
        return None
    _say_held(sweep, console)
    # The runs as first selected: `only` may have selected by states, which have changed.
    return plan.make(seen.runs, store, pending.promises(sweep), ask=backends.states)


def retry(
    grid: Grid,
    store: Store,
    profile: Profile,
    *,
    only: Sequence[str] = (),
    kind: str | None = None,
    console: Console,
) -> Plan | None:
    """Submit failed, cancelled and damaged runs again, adjusted to how they failed (see
    sweep.state.repair). kind: only this class of failure or interruption. Returns and raises as
    `launch`.
    """
    kinds = repair.classes(kind)

    def wanted(status: Status) -> bool:
        if kinds is None:
            return status.state in REPAIRABLE
        return status.state in REPAIRABLE | ON_REQUEST and status.kind in kinds

    return launch(grid, store, profile, only=only, wanted=wanted, console=console)


def _release(seen: Plan, console: Console) -> None:
    """Release jobs that the scheduler holds because a node failed to start them."""
    jobs = {
        status.job: replace(seen.promised[status.run.id], job=status.job)
        for status in seen.statuses
        if status.held and status.job
    }
    backends.release(jobs.values())
    if jobs:
        held = counted(len(jobs), "job")
        console.print(f"released {held} that Slurm held because a node failed to start them")


def _say_queued(
    started: Started[Runs], runs: Sequence[Run], grid: Grid, store: Store, console: Console
) -> None:
    left = len(_left(started))
    if started.arrays:
        tasks, names = sum(started.arrays.values()), ", ".join(started.arrays)
        sent = counted(len(runs) - left, "run")
        console.print(f"{sent} submitted: {counted(tasks, 'task')}, arrays {names}")
        how = grid.command("status", store, "--watch")
        console.print(Text(f"watch them with: {how}"), soft_wrap=True)
    if left:
        later = "repeat the command later, or use `sweep launch --feed`, which waits and submits"
        console.print(f"no room yet for {counted(left, 'run')} ({started.cap}); {later}")


def _left(started: Started[Runs]) -> list[Run]:
    """The runs that could not be submitted yet."""
    return [run for order in started.left for run in order.runs]


def _feed(
    left: list[Run],
    wanted: Callable[[Status], bool],
    grid: Grid,
    store: Store,
    profile: Profile,
    console: Console,
    every_s: float,
) -> None:
    """Submit the runs left whenever there is room, until none is left or the breaker trips."""
    sweep, backend, said = store.sweep(grid.name), backends.of(profile.executor), ""
    seen: Plan | None = None
    with stoppable():
        while left:
            time.sleep(every_s)
            if _say_held(sweep, console):
                return
            if not backend.room(profile):
                continue
            try:
                with submissions.turn(sweep):
                    seen = look(grid, store, before=seen)
                    ready = {s.run.id for s in seen.statuses if wanted(s)}
                    runs = [run for run in left if run.id in ready]
                    started = generations.start(Runs(sweep, store, profile, runs, seen.behind))
                left = _left(started)
                if started.arrays:
                    _say_queued(started, runs, grid, store, console)
            except (ClusterError, ConfigError) as error:  # Slurm is down, or another launch submits
                if str(error) != said:
                    said = str(error)
                    console.print(Text(f"{said}; trying again every {every_s:g} s", style="yellow"))


def _say_held(sweep: SweepDir, console: Console) -> bool:
    held = breaker.tripped(sweep)
    if held:
        console.print(Text(str(held), style="red"), soft_wrap=True)
    return held is not None


def require(grid: Grid, runs: Sequence[Run], store: Store, profile: Profile) -> None:
    """Raise ConfigError, before anything is written, if the grid is not tuned yet or these runs
    lack data or weights."""
    winners.require(grid)
    needs.require([run.config for run in runs], store, profile, _evals(runs))


def lacks(seen: Plan, store: Store, profile: Profile) -> list[str]:
    """The data and weights that are missing for the runs that are not done, one line each."""
    left = [status.run for status in seen.statuses if status.state is not State.DONE]
    return needs.missing((run.config for run in left), store, profile, _evals(left))


def _evals(runs: Sequence[Run]) -> needs.Evals:
    return ((run.config, item) for run in runs for item in run.evals)


def _say_stale(left: Sequence[Status], console: Console) -> None:
    """Print which runs are left alone because their inputs have changed: only an explicit retry
    trains them again."""
    reasons = Counter(status.reason for status in left if status.state is State.STALE)
    for reason, count in reasons.items():
        text = f"{counted(count, 'run')} left alone, {reason}; redo: `sweep retry --failed stale`"
        console.print(Text(text, "yellow"), soft_wrap=True)


def _nothing(seen: Plan) -> Text:
    if not seen.statuses:
        return Text("nothing to submit: no run is in the states asked for")
    if seen.done:
        return Text("nothing to do: every run is done", style="green")
    if seen.of(LAUNCHABLE):
        return Text("nothing to retry; `sweep launch` runs what is new or was interrupted")
    hint = (
        "; use `sweep retry` for failed, cancelled and damaged ones" if seen.of(REPAIRABLE) else ""
    )
    return Text(f"nothing to submit: every run is done, on its way or needs a retry{hint}")
