"""The rehearsal of `sweep dry-run`: executes every distinct miniature of some grids' runs once.

They go through the same submission, job, training, evaluation and files as the runs, in a folder
that is removed afterwards.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from core.errors import counted
from core.sheet import Sheet
from core.store.files import remove
from core.store.folders import Store
from core.training import schedules
from slurm.profile import Profile, read_profile
from sweep.grid import Grid, Run
from sweep.rehearsal import gpu_memory, miniature
from sweep.state import display, plan
from sweep.state.plan import LAUNCHABLE, Plan, State
from sweep.submit import backends, submissions, watcher
from sweep.submit.order import Runs
from sweep.worker.stop import stoppable

WORKER_GB = 3
"""Memory for a worker with a base-size backbone and its optimiser: at most 2.3 GB measured."""
DISK_GB = 4
"""Space for a worker's checkpoints, which are deleted once their run has ended."""
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Outcome:
    """What a rehearsal found."""

    pairs: Sequence[tuple[Run, Run]]
    """Each run with its miniature."""
    final: Plan
    """How the miniatures ended."""
    broken: dict[str, str]
    """Dataset -> why its miniature could not be made or read."""
    misfits: Sequence[str]
    """Schedules that never attack in their training, one line each."""
    fits: Sequence[gpu_memory.Fit]
    seconds: float

    @property
    def passed(self) -> bool:
        hopeless = any(item.is_hopeless for item in self.fits)
        return self.final.done and not self.broken and not self.misfits and not hopeless


def rehearse(
    grid: Grid, runs: Sequence[Run], store: Store, profile: Profile, console: Console
) -> Outcome:
    """Run every distinct miniature of these runs. grid: gives the sweep's name. profile: its GPUs
    are what the runs must fit into."""
    started = time.monotonic()
    here = read_profile("local")
    workers = _workers(here.workers)
    # SIGHUP, too, so that the folder, which may take up memory, is removed if the terminal closes.
    with stoppable(signal.SIGHUP), _scratch(workers) as folder:
        rehearsal = miniature.Rehearsal(folder)
        datasets = miniature.furnish(runs, store, rehearsal)
        sound = [run for run in runs if run.config.dataset not in datasets.broken]
        known = {run.id: run for run in grid.runs}
        pairs = miniature.share(miniature.shrink_all(sound, known, datasets))
        small = list({pair[1].id: pair[1] for pair in pairs}.values())
        distinct = counted(len(small), "distinct miniature")
        console.print(f"{distinct} of {counted(len(runs), 'run')}, {workers} at a time:")
        env = {"EPSWEEP_DATA": str(rehearsal.data)}
        here = here.model_copy(update={"tracking": "none", "workers": workers, "env": env})
        final = _run(replace(grid, runs=tuple(small)), rehearsal, here, console)
        return Outcome(
            pairs,
            final,
            datasets.broken,
            _misfits(runs),
            gpu_memory.measured(pairs, rehearsal, profile),
            time.monotonic() - started,
        )


def _workers(most: int) -> int:
    """The number of workers that this machine has memory for, between 1 and `most`."""
    return int(max(1, min(most, _free_memory_gb() // WORKER_GB)))


def _free_memory_gb() -> float:
    """Memory available to new processes; infinite if the kernel does not report it."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 / 1e9
    return inf


@contextmanager
def _scratch(workers: int) -> Iterator[Path]:
    """A folder for the rehearsal, removed at the end; in memory if there is plenty of it: to write
    a miniature's checkpoint of a gigabyte to a disk takes as long as to train it."""
    roomy = False
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK):
        free = min(shutil.disk_usage(SHARED_MEMORY).free / 1e9, _free_memory_gb())
        roomy = free >= workers * (WORKER_GB + DISK_GB)
    where = SHARED_MEMORY if roomy else None
    with tempfile.TemporaryDirectory(prefix="epsweep-dry-run-", dir=where) as folder:
        yield Path(folder)


def _run(grid: Grid, rehearsal: Store, here: Profile, console: Console) -> Plan:
    if not grid.runs:
        return Plan([])
    sweep = submissions.record_grid(grid, rehearsal)
    order = Runs(sweep, rehearsal, here, grid.runs, batches=miniature.BATCHES)
    crew = backends.of(here.executor).start(order).crew
    assert crew
    promised = watcher.promises(crew)
    started = time.monotonic()

    def look(working: bool) -> Plan:
        seen = plan.make(grid.runs, rehearsal, promised if working else {})
        _prune(seen, rehearsal)
        return seen

    return watcher.attend(
        crew,
        console,
        look,
        show=lambda seen, _: _bar(seen, started),
        brief=lambda seen: _counts(seen, started),
        left=lambda seen: bool(seen.of({State.PENDING, *LAUNCHABLE})),
        spare=3 * len(grid.runs),
    )


def _prune(seen: Plan, rehearsal: Store) -> None:
    """Delete the checkpoints of runs that have ended, unless other runs will begin from them."""
    waited = {s.run.config.parent for s in seen.statuses if s.state not in display.ENDED}
    for run in (run for run in seen.of(display.ENDED) if run.id not in waited):
        folder = rehearsal.run(run.id)
        for file in (folder.checkpoint, folder.previous_checkpoint):
            remove(file)


def _bar(seen: Plan, started: float) -> Group:
    """A progress bar, and the runs under way."""
    ended = sum(seen.counts[state] for state in display.ENDED)
    row = Table.grid(padding=(0, 2))
    row.add_row(
        ProgressBar(total=len(seen.statuses), completed=ended, width=40), _counts(seen, started)
    )
    running = [status for status in seen.statuses if status.state is State.RUNNING]
    names = (status.run.id.rpartition("-")[0] for status in running)
    return Group(row, *(Text(f"  {name}", style="dim") for name in names))


def _counts(seen: Plan, started: float) -> Text:
    ended, all_ = sum(seen.counts[state] for state in display.ENDED), len(seen.statuses)
    text = display.counts_line(seen)
    if ended:
        left = (time.monotonic() - started) * (all_ - ended) / ended
        text.append(f"   left {display.duration(left)}", style="bold")
    return text


def _misfits(runs: Sequence[Run]) -> list[str]:
    """One line for each schedule that never attacks although its runs have a strength."""
    found = {}
    for run in runs:
        config = run.config
        key = (config.schedule, config.epochs)
        if not config.schedule.attacks or key in found:
            continue
        never = schedules.make(config).attacked_epochs(config.epochs) == 0
        found[key] = f"schedule {run.setting}: never attacks in {config.epochs} epochs" * never
    return [line for line in found.values() if line]


def report(found: Outcome, profile: Profile) -> Group:
    """What passed, what failed and why, and the GPU memory that the runs need, for a terminal."""
    ended = found.final.counts
    head = Text.assemble(
        (f"{ended[State.DONE]} passed", "green"),
        (f", {ended[State.FAILED]} failed", "red") if ended[State.FAILED] else "",
        f" of {len(found.final.statuses)} in {display.duration(found.seconds)}",
    )
    problems = [Text(f"dataset {n}: {why}", style="red") for n, why in found.broken.items()]
    problems += [Text(line, style="red") for line in found.misfits]
    lines = [head, *problems, *display.reasons(found.final)]
    return Group(_cells(found), *lines, gpu_memory.table(found.fits, profile))


def _cells(found: Outcome) -> Sheet:
    """A table of passed/all distinct miniatures by backbone and dataset."""
    states = {status.run.id: status.state for status in found.final.statuses}
    cells: dict[tuple[str, str], dict[str, State]] = defaultdict(dict)
    for run, small in found.pairs:
        name = run.config.dataset.rstrip("/").rpartition("/")[2]
        cells[run.config.backbone, name][small.id] = states[small.id]
    datasets = list(dict.fromkeys(dataset for _, dataset in cells))
    shown = Sheet("passed/miniatures", *(f">{name}" for name in datasets))
    for backbone in dict.fromkeys(backbone for backbone, _ in cells):
        row = (cells.get((backbone, name)) for name in datasets)
        shown.add_row(backbone, *(_cell(list(cell.values())) if cell else "" for cell in row))
    return shown


def _cell(states: Sequence[State]) -> Text:
    done = states.count(State.DONE)
    return Text(f"{done}/{len(states)}", style="green" if done == len(states) else "red")
