"""Plan + profile -> jobs, through submitit. Returns as soon as they are submitted.

A submission freezes what it will run in a manifest of its own; submitting takes a claim on the
sweep folder, so that two people who launch the same grid at the same moment take turns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from core.claims import Claim, describe_process, newest_attempt, now, process_alive
from core.config import ConfigError
from core.rundir import RunDir, Store, SweepDir, read_jsonl, write_jsonl, write_text
from slurm.profile import Profile
from sweep.grid import Grid, Run
from sweep.job import RunJob

FOREVER_MIN = 60 * 24 * 365
"""Local workers have no time limit; submitit wants one."""


Job = submitit.Job[dict[str, int]]


@dataclass(frozen=True)
class Submission:
    """Jobs on their way: `jobs` are submitit's; `manifest` says what they run."""

    manifest: Path
    runs: Sequence[Run]
    jobs: list[Job]
    start: Callable[[int], Job]
    """Starts one more worker."""


def record_grid(grid: Grid, store: Store) -> SweepDir:
    """Write the sweep folder's grid.yaml and manifest.jsonl. Raises ConfigError where the store
    cannot be written."""
    sweep = store.sweep(grid.name)
    try:
        sweep.logs.mkdir(parents=True, exist_ok=True)
        write_text(sweep.grid, grid.text)
        write_jsonl(sweep.manifest, (manifest_row(run) for run in grid.runs))
    except OSError as error:
        raise ConfigError(f"{store.root}: cannot write there ({error.strerror})") from None
    return sweep


def manifest_row(run: Run) -> dict[str, Any]:
    """A run as manifests hold it: everything resolved, nothing to look up later."""
    return {
        "id": run.id,
        "setting": run.setting,
        "config": run.config.to_dict(),
        "evals": {item.id: item.to_dict() for item in run.evals},
    }


@contextmanager
def turn(sweep: SweepDir) -> Iterator[None]:
    """Exclusive right to plan and submit this sweep. Raises ConfigError if another holds it."""
    claim = Claim.acquire(RunDir(sweep.path / "submitting"))
    if claim is None:
        raise ConfigError(f"{sweep.path.name}: another launch is submitting it right now")
    try:
        yield
    finally:
        claim.release("done")


def freeze(runs: Sequence[Run], sweep: SweepDir, store: Store) -> Path:
    """The manifest of one submission: a row per run, with the attempts made before it."""
    number = 1 + len(read_jsonl(sweep.submissions))
    path = sweep.path / f"submission-{number:04d}.jsonl"
    rows = [manifest_row(run) | {"after": newest_attempt(store.run(run.id).path)} for run in runs]
    write_jsonl(path, rows)
    return path


def pending(sweep: SweepDir) -> set[str]:
    """Ids that a live local submission will still start (or has started)."""
    ids: set[str] = set()
    for row in read_jsonl(sweep.submissions):
        if row["executor"] == "local" and any(map(process_alive, row["processes"])):
            ids.update(item["id"] for item in read_jsonl(sweep.path / row["manifest"]))
    return ids


def local(
    runs: Sequence[Run],
    sweep: SweepDir,
    store: Store,
    profile: Profile,
    *,
    images: int | None = None,
) -> Submission:
    """Start worker processes on this machine that share the runs among themselves.

    images: cut every split to its first images (miniatures only).
    """
    manifest = freeze(runs, sweep, store)
    workers = min(profile.workers, len(runs))
    job = RunJob(
        root=str(store.root),
        sweep=sweep.path.name,
        manifest=str(manifest),
        first=0,
        count=len(runs),
        tracking=profile.tracking,
        threads=max(1, len(os.sched_getaffinity(0)) // workers),
        images=images,
    )
    gpus = local_gpus()

    def start(number: int) -> Job:
        executor = submitit.LocalExecutor(sweep.logs)
        visible = (gpus[number % len(gpus)],) if gpus else ()
        executor.update_parameters(
            timeout_min=FOREVER_MIN, gpus_per_node=len(visible), visible_gpus=visible
        )
        with _environ(profile.environ()):
            return executor.submit(job)

    jobs = [start(number) for number in range(workers)]
    processes = [describe_process(int(job.job_id)) for job in jobs]
    record(sweep, manifest, profile, processes=processes)
    return Submission(manifest, runs, jobs, start)


@contextmanager
def _environ(variables: Mapping[str, str]) -> Iterator[None]:
    """Start child processes with more environment variables."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def script(runs: Sequence[Run], sweep: SweepDir, store: Store, profile: Profile) -> str:
    """What `local` would start: submitit's own command line, once per worker."""
    workers = min(profile.workers, max(1, len(runs)))
    executor = submitit.LocalExecutor(sweep.logs)
    return (
        f"# profile {profile.name}: {workers} worker processes share {len(runs)} runs\n"
        f"{executor._submitit_command_str}"
    )


def record(sweep: SweepDir, manifest: Path, profile: Profile, **more: Any) -> None:
    """Add a row to submissions.jsonl."""
    row = {
        "time": now(),
        "profile": profile.name,
        "executor": profile.executor,
        "manifest": manifest.name,
        **more,
    }
    write_jsonl(sweep.submissions, [*read_jsonl(sweep.submissions), row])


def local_gpus() -> list[int]:
    """Indices of this machine's NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves, without torch."""
    count = len([p for p in Path("/dev").glob("nvidia[0-9]*")])
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return list(range(count))
    return [int(index) for index in shown.split(",") if index.isdigit()]
