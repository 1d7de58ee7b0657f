"""Submitting to this machine: worker processes of submitit's local executor share the runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import submitit

from core.claims import describe_process
from core.rundir import Store, SweepDir, read_jsonl
from slurm.profile import Profile
from sweep import submit
from sweep.grid import Run
from sweep.job import RunJob
from sweep.plan import Pending

FOREVER_MIN = 60 * 24 * 365
"""Local workers have no time limit; submitit wants one."""

Job = submitit.Job[dict[str, int]]


@dataclass(frozen=True)
class Submission:
    """Workers at work on `runs`; `start` starts one more of them."""

    runs: Sequence[Run]
    pending: Mapping[str, Pending]
    jobs: list[Job]
    start: Callable[[int], Job]


def start(
    runs: Sequence[Run],
    sweep: SweepDir,
    store: Store,
    profile: Profile,
    *,
    images: int | None = None,
) -> Submission:
    """Start the workers. images: cut every split to its first images (miniatures only)."""
    manifest = submit.freeze_runs(runs, sweep, store)
    workers = min(profile.workers, len(runs))
    work = RunJob(
        root=str(store.root),
        sweep=sweep.path.name,
        manifest=str(manifest),
        first=0,
        count=len(runs),
        tracking=profile.tracking,
        threads=max(1, len(os.sched_getaffinity(0)) // workers),
        images=images,
    )
    gpus = visible_gpus()

    def worker(number: int) -> Job:
        executor = submitit.LocalExecutor(sweep.logs)
        mine = (gpus[number % len(gpus)],) if gpus else ()
        executor.update_parameters(
            timeout_min=FOREVER_MIN, gpus_per_node=len(mine), visible_gpus=mine
        )
        with _environ(profile.environ()):
            return executor.submit(work)

    jobs = [worker(number) for number in range(workers)]
    processes = [describe_process(int(job.job_id)) for job in jobs]
    submit.record(sweep, manifest, profile, processes=processes)
    promised = submit.promises(read_jsonl(manifest), jobs[0].job_id)
    return Submission(runs, promised, jobs, worker)


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


def script(runs: Sequence[Run], sweep: SweepDir, profile: Profile) -> str:
    """What `start` would start: submitit's own command line, once per worker."""
    workers = min(profile.workers, max(1, len(runs)))
    executor = submitit.LocalExecutor(sweep.logs)
    return (
        f"# profile {profile.name}: {workers} worker processes share {len(runs)} runs\n"
        f"{executor._submitit_command_str}"
    )


def visible_gpus() -> list[int]:
    """Indices of this machine's NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves, without torch."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return list(range(len(list(Path("/dev").glob("nvidia[0-9]*")))))
    return [int(index) for index in shown.split(",") if index.isdigit()]
