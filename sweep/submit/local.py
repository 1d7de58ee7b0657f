"""Submitting to this machine: worker processes of submitit's local executor share the runs."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import submitit

from core.config import ConfigError
from core.store.claims import describe_process
from core.store.folders import Store, SweepDir, read_jsonl
from slurm.profile import Profile
from sweep.grid import Run
from sweep.state import pending
from sweep.state.pending import Pending
from sweep.submit import frozen_code, submissions
from sweep.worker.job import RunJob

FOREVER_MIN = 60 * 24 * 365
"""Local workers have no time limit; submitit wants one."""

Job = submitit.Job[dict[str, int]]


@dataclass(frozen=True)
class Crew:
    """Workers of this machine by their numbers; `start` starts the one of a number."""

    jobs: list[Job]
    start: Callable[[int], Job]


@dataclass(frozen=True)
class Submission(Crew):
    """Workers at work on `runs`."""

    runs: Sequence[Run]
    pending: Mapping[str, Pending]


def start(
    runs: Sequence[Run],
    sweep: SweepDir,
    store: Store,
    profile: Profile,
    *,
    batches: int | None = None,
) -> Submission:
    """Start the workers. batches: what a rehearsal trains on, see RunJob."""
    manifest = submissions.freeze_runs(runs, sweep, store)
    share = share_of(profile, len(runs))
    work = RunJob(
        root=str(store.root),
        sweep=sweep.path.name,
        manifest=str(manifest),
        first=0,
        count=len(runs),
        tracking=profile.tracking,
        threads=share.threads,
        gpus=share.gpus,
        batches=batches,
        compile=profile.compile,
    )
    code = {pair for run in runs for pair in run.code}
    crew = engage(lambda number: work, share.workers, sweep, manifest, profile, code)
    promised = pending.of_process(read_jsonl(manifest), crew.jobs[0].job_id)
    return Submission(crew.jobs, crew.start, runs, promised)


class Share(NamedTuple):
    """How many workers this machine gets, and what each of them has of it."""

    workers: int
    threads: int
    gpus: float


def share_of(profile: Profile, tasks: int) -> Share:
    """For so many things to do. Raises ConfigError where one needs more GPUs than there are."""
    gpus, ranks = visible_gpus(), profile.ranks
    workers = min(profile.workers, tasks)
    if ranks > 1 and gpus:
        workers = min(workers, len(gpus) // ranks)
        if not workers:
            raise ConfigError(
                f"profile {profile.name}: gpus_per_run: {ranks}, this machine shows {len(gpus)}"
            )
    threads = max(1, len(os.sched_getaffinity(0)) // (workers * ranks))
    return Share(workers, threads, min(ranks, len(gpus) / workers))


def engage(
    work: Callable[[int], Callable[[], dict[str, int]]],
    workers: int,
    sweep: SweepDir,
    manifest: Path,
    profile: Profile,
    code: frozen_code.Code = (),
) -> Crew:
    """Start workers, each with what `work` gives for its number, and put them on record. code: the
    own code that they need."""
    gpus, ranks = visible_gpus(), profile.ranks
    if odd := re.search("%[jtaA]", str(sweep.logs)):
        raise ConfigError(f"{sweep.path}: submitit would take {odd[0]} in the path for a job's id")
    given = profile.environ()
    # As on a cluster: a worker that starts later must not import code edited meanwhile, nor
    # packages of such names where the user stands; those of the user's path come behind.
    frozen = str(frozen_code.snapshot(sweep, code))
    behind = given.get("PYTHONPATH", os.environ.get("PYTHONPATH"))
    ahead = os.pathsep.join(filter(None, (frozen, behind)))
    quiet = {"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    variables = {**given, "PYTHONPATH": ahead, **quiet}

    def worker(number: int) -> Job:
        executor = submitit.LocalExecutor(sweep.logs)
        first = number * ranks % len(gpus) if gpus else 0
        mine = gpus[first : first + ranks]
        executor.update_parameters(
            timeout_min=FOREVER_MIN, tasks_per_node=ranks, gpus_per_node=len(mine)
        )
        executor.parameters["visible_gpus"] = mine  # as an argument it must be indices
        with environ(variables), _background(sweep.logs / "workers.log"):
            return executor.submit(work(number))

    jobs = [worker(number) for number in range(workers)]
    processes = [describe_process(int(job.job_id)) for job in jobs]
    submissions.record(sweep, manifest, profile, processes=processes)
    return Crew(jobs, worker)


@contextmanager
def environ(variables: Mapping[str, str]) -> Iterator[None]:
    """More environment variables, for this process and those that it starts."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _background(log: Path) -> Iterator[None]:
    """Start child processes that outlive the terminal: they write to a file instead, and neither
    Ctrl-C nor a hang-up reaches submitit's controllers. A worker hears from us by SIGTERM, which
    they pass on, and takes the time it needs to put its run in order."""
    quiet = (signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in quiet]
    with open(log, "ab") as file, open(os.devnull, "rb") as nothing:
        ours = [os.dup(number) for number in range(3)]
        for number, replacement in enumerate((nothing, file, file)):
            os.dup2(replacement.fileno(), number)
        try:
            yield
        finally:
            for number, own in enumerate(ours):
                os.dup2(own, number)
                os.close(own)
            for signum, handler in zip(quiet, before, strict=True):
                signal.signal(signum, handler)


def stop(jobs: Sequence[Job], *, patience: float = 60.0) -> None:
    """Ask workers to stop until they have; a worker still importing may miss the first times."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        running = [job for job in jobs if not job.done()]
        if not running:
            return
        for job in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        time.sleep(0.2)


def script(runs: Sequence[Run], sweep: SweepDir, profile: Profile) -> str:
    """What `start` would start: the command line of submitit's local executor, once per worker."""
    if profile.executor == "debug":
        return f"# profile {profile.name}: this process does {len(runs)} runs"
    workers = min(profile.workers, max(1, len(runs)))
    command = [sys.executable, "-u", "-m", "submitit.core._submit", str(sweep.logs)]
    share = f"{workers} worker processes share {len(runs)} runs"
    return f"# profile {profile.name}: {share}\n{shlex.join(command)}"


def visible_gpus() -> list[str]:
    """This machine's NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves, without torch: indices, or the
    names that it has for GPUs and parts of them."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return [str(index) for index, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    names = (name.strip() for name in shown.split(","))
    return [name for name in names if name.isdigit() or name.startswith(("GPU-", "MIG-"))]
