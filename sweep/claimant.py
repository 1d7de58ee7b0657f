"""`sweep work`: a process that works on what a grid lacks until nothing is left to claim.

It needs no scheduler, job list or other process, only the store: anything that can start processes
on a shared file system will do. Trials of the grid's searches come first, then its runs and their
missing evaluations.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from core.config import ConfigError
from core.config.settings import beat_seconds
from core.store.folders import Store, SweepDir
from core.store.json_files import read_jsonl
from slurm.profile import Profile
from sweep import launcher
from sweep.grid import Grid, Run, load_grid, select_runs
from sweep.state import breaker, pace, pending
from sweep.state.pending import Pending
from sweep.submit import backends, local, submissions
from sweep.tune import session, winners
from sweep.tune.trial_job import TuneJob
from sweep.worker.job import orderly, side_by_side
from sweep.worker.run_job import RunJob
from sweep.worker.sharing import share

HELD = "held back"
"""Outcome of runs that were not begun because too many others failed the same way."""
BAD = "slots with failures"
"""Outcome of slots in which a run failed, or whose process was killed."""


@dataclass(frozen=True)
class Claimant:
    """One slot of a worker; it does one run or trial at a time. Holds only plain values, so that it
    can be sent to another process."""

    grid: str
    root: str
    profile: str
    tracking: str | None = None
    only: tuple[str, ...] = ()
    idle: float = 0.0
    """Seconds to wait for more after there was last something to claim."""
    slot: int = 0
    slots: int = 1
    """Slots on this machine: each has an equal share of the cores, and they take GPUs in turn."""

    def __call__(self) -> dict[str, int]:
        """Work as the main task of this process. Prints every run that ends; returns outcome ->
        count. SIGTERM and SIGUSR2 (sent by Grid Engine and LSF) let runs save before it exits."""
        return orderly(self.work, signal.SIGUSR2)

    def work(self) -> dict[str, int]:
        """As `__call__`, for a process that handles signals itself. Raises ConfigError,
        StoppedError."""
        store, console = Store(Path(self.root)), Console(markup=False, emoji=False)
        where = _checked(launcher.load_profile(self.profile, tracking=self.tracking))
        grid = winners.apply(load_grid(self.grid), store)
        with local.environ(where.environ() | self._gpu()):
            outcomes = Counter(self._tune(grid, store, where))
            grid = winners.apply(grid, store)
            if not winners.are_in(grid):
                console.print("its searches are unfinished: other workers hold their last trials")
                return dict(outcomes)
            outcomes += self._do_runs(grid, store, where, console)
        tripped = breaker.tripped(store.sweep(grid.name))
        if tripped:
            console.print(Text(str(tripped), style="red"), soft_wrap=True)
        return dict(outcomes)

    def _gpu(self) -> dict[str, str]:
        gpus = local.visible_gpus()
        return {"CUDA_VISIBLE_DEVICES": gpus[self.slot % len(gpus)]} if gpus[1:] else {}

    def _means(self, store: Store, where: Profile) -> dict[str, Any]:
        """What a job of this slot works with: its share of the cores, at most one GPU, ..."""
        threads = max(1, len(os.sched_getaffinity(0)) // self.slots)
        return {
            "root": str(store.root),
            "threads": threads if self.slots > 1 else None,
            "gpus": min(1.0, len(local.visible_gpus()) / self.slots),
            "staging": where.staging,
            "compile": where.compile,
        }

    def _do_runs(self, grid: Grid, store: Store, where: Profile, console: Console) -> Counter[str]:
        runs = select_runs(grid.runs, self.only)
        launcher.require(grid, runs, store, where)
        sweep = _recorded(grid, store)
        means = self._means(store, where)
        job = RunJob(sweep=sweep.path.name, tracking=where.tracking, **means)
        held = set[str]()

        def do(run: Run) -> str:
            if breaker.tripped(sweep):
                held.add(run.id)
                return "skipped"
            outcome = job.do(run.config, run.evals)
            if outcome != "skipped":
                console.print(f"{outcome} {run.id}", soft_wrap=True)
            return outcome

        def promises() -> Mapping[str, Pending]:
            return backends.states(pending.promises(sweep))

        outcomes = share(runs, store, do, sweep.parts, promises=promises, idle=self.idle)
        return outcomes + Counter({HELD: len(held)})

    def _tune(self, grid: Grid, store: Store, where: Profile) -> Mapping[str, int]:
        """Do trials of the grid's searches until all have a winner or no trial can be claimed."""
        if winners.are_in(grid):
            return {}
        wanted = session.searches(grid, store, self.only)
        session.check(wanted, store, where)
        sweep, outcomes = session.record(grid, wanted, store), Counter[str]()
        job = TuneJob(sweep=str(sweep.path), **self._means(store, where))
        last = time.monotonic()
        while True:
            looked = time.thread_time()
            turned = replace(job, turn=random.randrange(len(wanted)))
            # No retry of failed trials: every worker would do them again.
            done = turned.share([(one, range(one.trials), [0] * one.trials) for one in wanted])
            outcomes.update(done)
            last = time.monotonic() if done else last
            wait = last + self.idle - time.monotonic()
            if winners.are_in(winners.apply(grid, store)) or (not done and wait <= 0):
                return {f"trials {outcome}": count for outcome, count in outcomes.items()}
            if not done:
                time.sleep(min(wait, pace.pause(looked, 3 * beat_seconds())))


def work(claimant: Claimant) -> dict[str, int]:
    """Work in this process or, if there are several slots, in a process for each; a killed one does
    not stop the others. Returns outcome -> count, of runs or, with several slots, of slots. Raises
    as `Claimant.work`. If told to stop, lets runs save and exits with code 143."""
    if claimant.slots == 1:
        return claimant()
    slots = [partial(_slot, replace(claimant, slot=n)) for n in range(claimant.slots)]
    ended = orderly(lambda: side_by_side(slots), signal.SIGUSR2)
    return {"slots ended": ended["ended"], BAD: ended["died"]}


def _slot(claimant: Claimant) -> None:
    if has_failed(claimant()):
        sys.exit(1)


def has_failed(outcomes: Mapping[str, int]) -> bool:
    """Whether something failed or was held back, which a person has to look at."""
    return any(outcomes.get(kind) for kind in ("failed", HELD, BAD))


def _checked(profile: Profile) -> Profile:
    if profile.ranks > 1:
        raise ConfigError(
            f"profile {profile.name}: sweep work runs each run in one process: expected "
            f"gpus_per_run: 1, got {profile.gpus_per_run}"
        )
    return profile


def _recorded(grid: Grid, store: Store) -> SweepDir:
    """The sweep's folder, with the grid recorded unless another worker has already done so."""
    sweep = store.sweep(grid.name)
    same = sweep.grid.is_file() and sweep.grid.read_text("utf-8") == grid.text
    ids = [run.id for run in grid.runs]
    if same and [row["id"] for row in read_jsonl(sweep.manifest)] == ids:
        return sweep
    return submissions.record_grid(grid, store)
