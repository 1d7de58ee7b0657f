"""Launching: grid + store + profile -> what is missing gets submitted. Used by several verbs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from core import inputs, schedules
from core.config import ConfigError, nearest
from core.rundir import Store
from slurm import profile as profiles
from slurm.profile import Profile
from sweep import array, breaker, local, plan, submit, watch
from sweep.cancel import withdraw
from sweep.grid import Grid, Run, select
from sweep.plan import LAUNCHABLE, REPAIRABLE, Plan, State, Status


def load_profile(
    name: str, *, max_parallel: int | None = None, tracking: str | None = None
) -> Profile:
    """A profile with what the command line overrides. Raises ProfileError."""
    loaded = profiles.load(name)
    changed: dict[str, object] = {}
    if tracking:
        changed["tracking"] = tracking
    if max_parallel and loaded.executor == "local":
        changed["workers"] = max_parallel
    return loaded.model_copy(update=changed)


def look(grid: Grid, store: Store, only: Sequence[str] = ()) -> Plan:
    """The plan of a grid's runs, or of those that match every filter. Raises ConfigError for a
    filter that names no field or matches no run."""
    states, fields = _split(only)
    runs = select(grid.runs, fields)
    seen = plan.make(runs, store, pending=submit.pending(store.sweep(grid.name)))
    if states:
        seen = Plan([status for status in seen.statuses if status.state in states])
    return seen


def _split(only: Sequence[str]) -> tuple[set[State], list[str]]:
    """Filters on the state, and the others."""
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


def launch(
    grid: Grid,
    store: Store,
    profile: Profile,
    *,
    only: Sequence[str] = (),
    console: Console,
    wait: bool = True,
) -> Plan | None:
    """Submit every run that is neither done nor on its way. Returns the final plan, None where
    jobs were submitted and not waited for. Raises ConfigError, ProfileError."""
    return _go(grid, store, profile, only, lambda s: s.state in LAUNCHABLE, console, wait=wait)


def retry(
    grid: Grid,
    store: Store,
    profile: Profile,
    *,
    only: Sequence[str] = (),
    kind: str | None = None,
    console: Console,
) -> Plan | None:
    """Submit failed and cancelled runs again; `kind` limits it to one class of failure."""

    def wanted(status: Status) -> bool:
        return status.state in REPAIRABLE and kind in (None, status.kind)

    return _go(grid, store, profile, only, wanted, console)


def _go(
    grid: Grid,
    store: Store,
    profile: Profile,
    only: Sequence[str],
    wanted: Callable[[Status], bool],
    console: Console,
    *,
    wait: bool = True,
) -> Plan | None:
    check([s.run for s in look(grid, store, only).statuses if wanted(s)], store)
    sweep = submit.record_grid(grid, store)
    with submit.turn(sweep):
        seen = look(grid, store, only)
        runs = [status.run for status in seen.statuses if wanted(status)]
        console.print(summary(grid, seen))
        if not runs:
            console.print(_nothing(seen))
            return seen
        withdraw(runs, store)
        breaker.close(sweep)
        if profile.executor == "slurm":
            console.print(_sent(array.send(runs, sweep, store, profile), grid))
            return None
        submission = local.start(runs, sweep, store, profile)
    if not wait:
        console.print(
            f"{len(runs)} runs started; watch them with: sweep status {grid.name} --watch"
        )
        return None
    watch.wait(submission, store, console)
    held = breaker.tripped(sweep)
    if held:
        console.print(Text(str(held), style="red"), soft_wrap=True)
    return look(grid, store, only)


def _sent(sent: array.Sent, grid: Grid) -> Text:
    tasks, names = sum(sent.arrays.values()), ", ".join(sent.arrays)
    text = f"{sent.runs} runs submitted: {tasks} tasks, arrays {names}"
    if sent.left:
        text += f"\n{sent.left} runs do not fit yet ({sent.cap}); launch again when some are done"
    return Text(f"{text}\nwatch them with: sweep status {grid.name} --watch")


def check(runs: Sequence[Run], store: Store) -> None:
    """Raises ConfigError, before anything is written, where a run lacks data or weights."""
    problems = inputs.missing((run.config for run in runs), store)
    if problems:
        raise ConfigError(*problems)


def _nothing(seen: Plan) -> Text:
    if seen.counts[State.DONE] == len(seen.statuses):
        return Text("nothing to do: every run is done", style="green")
    hint = "; `sweep retry` runs failed and cancelled ones again" if seen.of(REPAIRABLE) else ""
    return Text(f"nothing to submit: every run is done, on its way or ended{hint}")


def summary(grid: Grid, seen: Plan) -> Group:
    """What a plan holds, as a person reads it: the question, the counts, runs by cell, the cost."""
    about = grid.about
    lines = [Text.assemble((grid.name, "bold"), "  ", str(about.get("question", "")))]
    shared = f" ({grid.shared} combinations share another's run)" if grid.shared else ""
    lines.append(Text.assemble(f"{len(seen.statuses)} runs{shared}: ", watch.counts_line(seen)))
    hours = remaining_hours(grid, seen)
    if hours is not None:
        hardware = f" on {about['hardware']}" if about.get("hardware") else ""
        lines.append(Text(f"about {hours:.3g} of {about['gpu_hours']} hours left{hardware}"))
    return Group(*lines, cells(seen))


def cells(seen: Plan) -> Table:
    """Done/all runs by backbone and dataset."""
    datasets = list(dict.fromkeys(_dataset(status.run) for status in seen.statuses))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("done/runs")
    for name in datasets:
        table.add_column(name, justify="right")
    for backbone in dict.fromkeys(status.run.config.backbone for status in seen.statuses):
        row = []
        for dataset in datasets:
            states = [
                status.state
                for status in seen.statuses
                if status.run.config.backbone == backbone and _dataset(status.run) == dataset
            ]
            done = states.count(State.DONE)
            row.append(
                Text(f"{done}/{len(states)}", style="green" if done else "") if states else ""
            )
        table.add_row(backbone, *row)
    return table


def _dataset(run: Run) -> str:
    return run.config.dataset.rstrip("/").rpartition("/")[2]


def work(run: Run) -> float:
    """Cost of a run in epochs of standard training: an attacked one of n steps costs 1 + 0.6 n
    (measured on 224-pixel backbones: 5.2 for n = 7)."""
    config = run.config
    attacked = 1 + 0.6 * config.attack.steps
    if config.schedule.kind == "auto":  # known only afterwards: take all but the waiting time
        return config.schedule.patience + (config.epochs - config.schedule.patience) * attacked
    schedule = schedules.make(config)
    epochs = range(config.epochs)
    return sum(attacked if schedule.alpha(t) > Fraction(0) else 1.0 for t in epochs)


def remaining_hours(grid: Grid, seen: Plan) -> float | None:
    """The grid's own estimate of its GPU-hours, for the part that is not done; None without one."""
    hours = grid.about.get("gpu_hours")
    total = sum(work(run) for run in grid.runs)
    if not isinstance(hours, int | float) or not total:
        return None
    left = sum(work(s.run) * (1 - s.share) for s in seen.statuses if s.state is not State.DONE)
    return float(hours) * left / total


def job_script(grid: Grid, seen: Plan, store: Store, profile: Profile) -> str:
    """The exact commands or batch script that `launch` would hand over."""
    runs, sweep = seen.of(LAUNCHABLE), store.sweep(grid.name)
    if profile.executor != "slurm":
        return local.script(runs, sweep, profile)
    return array.script(runs, sweep, profile)
