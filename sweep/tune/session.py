"""What `sweep tune` does: workers for the searches of a grid, on this machine or a cluster.
Repeating it is safe: trials that are done or under way stay.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from core.config import ConfigError
from core.data import inputs
from core.store.claims import process_alive
from core.store.folders import Store, SweepDir, write_json
from slurm import cluster
from slurm.profile import Profile
from sweep.grid import Grid, search, select
from sweep.grid.search import Progress, Search
from sweep.inputs import pretrained
from sweep.state import breaker, pending
from sweep.state.pending import Pending
from sweep.submit import array, frozen_code, local, submissions, watcher
from sweep.tune import trial_job
from sweep.tune.table import brief, table
from sweep.tune.trial_job import TuneJob
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
        busy = at_work(sweep)
        if busy:
            console.print(f"{busy} workers are at work on it already")
        if not left or (busy and profile.executor != "slurm"):
            return look(wanted)
        breaker.close(sweep)
        if profile.executor == "slurm":
            _send(left, sweep, store, profile, workers, busy, console)
            return look(wanted)
        crew = _engage(left, sweep, store, profile)
    return _attend(crew, wanted, grid, console)


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


def _freeze(left: Sequence[Search], sweep: SweepDir) -> Path:
    """The manifest of one submission: a row per search."""
    return submissions.write_manifest(sweep, map(trial_job.manifest_row, left))


def at_work(sweep: SweepDir) -> int:
    """Workers of earlier submissions that run or wait to run."""
    return len(_jobs(sweep)) + len(_processes(sweep))


def stop(grid: Grid, store: Store) -> int:
    """Ask the workers of a grid's searches to stop, and returns their number; trials under way
    keep their checkpoints."""
    sweep = folder(grid, store)
    jobs, processes = _jobs(sweep), _processes(sweep)
    cluster.cancel(job for job in jobs if job[0].isdigit())
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return len(jobs) + len(processes)


def _jobs(sweep: SweepDir) -> list[str]:
    arrays = [row for row in pending.submissions(sweep) if row["executor"] == "slurm"]
    promised = {
        job: Pending(job, 0, row["name"], user=row.get("user"))
        for row in arrays
        for job, _ in pending.tasks(row)
    }
    return [item.job for item in pending.ask(promised).values() if item.live]


def _processes(sweep: SweepDir) -> list[int]:
    known = [item for row in pending.submissions(sweep) for item in row.get("processes", ())]
    return [item["pid"] for item in known if process_alive(item)]


def _engage(left: Sequence[Search], sweep: SweepDir, store: Store, profile: Profile) -> local.Crew:
    manifest = _freeze(left, sweep)
    share = local.share_of(profile, sum(one.trials for one in left))

    def work(number: int) -> TuneJob:
        return TuneJob(
            root=str(store.root),
            sweep=str(sweep.path),
            manifest=str(manifest),
            first=0,
            count=len(left),
            turn=number * len(left) // share.workers,
            threads=share.threads,
            gpus=share.gpus,
            compile=profile.compile,
        )

    return local.engage(work, share.workers, sweep, manifest, profile, _own_code(left))


def _own_code(searches: Sequence[Search]) -> frozen_code.Code:
    return {pair for one in searches for pair in one.config.code}


def _send(
    left: Sequence[Search],
    sweep: SweepDir,
    store: Store,
    profile: Profile,
    workers: int | None,
    busy: int,
    console: Console,
) -> None:
    """One array per kind of job: backbones may have overrides in the profile."""
    groups: dict[str, list[Search]] = {}
    for one in left:
        name = one.config.backbone if one.config.backbone in profile.overrides else ""
        groups.setdefault(name, []).append(one)
    code = frozen_code.snapshot(sweep, _own_code(left))
    for backbone, members in groups.items():
        special = profile.for_backbone(backbone)
        most = min(workers or len(members), sum(one.trials for one in members))
        lacking, busy = max(0, most - busy), max(0, busy - most)
        count = array.fits(lacking, special)
        if count < lacking:
            console.print(f"{lacking - count} workers do not fit yet; tune again later")
        if count:
            manifest = _freeze(members, sweep)
            tasks = [
                _task(members, n, count, manifest, sweep, store, special) for n in range(count)
            ]
            rows = {"first": 0, "end": count, "per": 1}
            job = array.hand_over(tasks, sweep, code, manifest, special, **rows)
            console.print(f"{count} workers on {len(members)} searches: array {job}")


def _task(
    members: Sequence[Search],
    number: int,
    workers: int,
    manifest: Path,
    sweep: SweepDir,
    store: Store,
    profile: Profile,
) -> TuneJob:
    return TuneJob(
        root=str(store.root),
        sweep=str(sweep.path),
        manifest=str(manifest),
        first=0,
        count=len(members),
        turn=number * len(members) // workers,
        threads=profile.slurm.cpus_per_task,
        gpus=profile.gpus_per_run,
        staging=profile.staging,
        compile=profile.compile,
    )


def _attend(
    crew: local.Crew, wanted: Sequence[Search], grid: Grid, console: Console
) -> list[Progress]:
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
