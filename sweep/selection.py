"""Which runs a launch takes: those that are wanted, will be able to begin, and are worth a
retry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

from core.errors import counted
from core.store.folders import Store
from slurm.profile import Profile
from sweep.grid import Grid, Run
from sweep.state import parents, plan, repair
from sweep.state.plan import Plan
from sweep.state.status import State, Status
from sweep.submit import backends


def choose(seen: Plan, wanted: Callable[[Status], bool]) -> list[Status]:
    """What is wanted, and new runs that wait for it."""
    found: dict[str, Status] = {}
    for status in seen.statuses:
        waits = status.state is State.NEW and status.run.config.parent in found
        if waits or wanted(status):
            found[status.run.id] = status
    return [*found.values()]


def startable(
    runs: Sequence[Run], grid: Grid, seen: Plan, store: Store, console: Console
) -> list[Run]:
    """The runs that will be able to begin; says which others wait for runs that nobody will do."""
    waits = {run.id: parents.obstacle(run.config.parent, store.runs) for run in runs}
    if not any(waits.values()):
        return [*runs]
    looked = {status.run.id for status in seen.statuses}
    wanted = {run.config.parent for run in runs} - looked
    left_out = [run for run in grid.runs if run.id in wanted]
    beside = plan.make(left_out, store, seen.promised, ask=backends.states)
    coming = {run.id for each in (seen, beside) for run in each.of({State.PENDING, State.RUNNING})}
    able, left = list[Run](), Counter[str]()
    for run in runs:
        if (why := waits[run.id]) and run.config.parent not in coming:
            left[why] += 1
        else:
            coming.add(run.id)
            able.append(run)
    for why, count in left.items():
        console.print(Text(f"{counted(count, 'run')} left alone: {why}", "yellow"), soft_wrap=True)
    return able


def repaired(
    chosen: Sequence[Status], store: Store, profile: Profile, console: Console
) -> list[Run]:
    """The runs to submit, with the adjustments for their failures saved in their folders. Prints
    which failed runs are left alone, and why."""
    runs, refused = [], Counter[str]()
    for status in chosen:
        folder = store.run(status.run.id)
        found = repair.plan(status, folder, profile)
        if isinstance(found, str):
            refused[f"{status.kind}: {found}"] += 1
        else:
            repair.keep(found, folder)
            runs.append(status.run)
    for reason, count in refused.items():
        console.print(Text(f"{counted(count, 'failed run')} left alone: {reason}", style="yellow"))
    return runs
