"""What a process of a job does, whatever it works on: it stops in an orderly way, and waits its
turn.

It is pickled by reference and holds only paths and numbers; the state of a run or a trial is in its
folder. Workers with the same manifest share the work: each claims the next that no other holds.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config.settings import beat_seconds, stale_seconds
from core.errors import ClusterError, DamagedError, StoppedError
from core.options import Compile
from core.store import shapes
from core.store.folders import RunDir, Store
from core.store.holder import find_holder
from core.store.json_files import salvage
from slurm import cluster, environment
from sweep.state import triage
from sweep.worker import attempt, custody
from sweep.worker.stop import own_signals, stoppable

if TYPE_CHECKING:
    from sweep.worker.task_file import DelayedSubmission

STOPPED = 143
"""Exit code of a job that was told to stop: 128 + SIGTERM."""


@dataclass(frozen=True)
class Job(ABC):
    """Works through rows [first, first + count) of a frozen manifest."""

    root: str
    sweep: str
    manifest: str = ""
    first: int = 0
    count: int = 0
    threads: int | None = None
    gpus: float = 0
    """GPUs that one run occupies; a fraction if runs share one."""
    staging: bool = False
    """Copy the prepared data to the node's local disk first, if it has one."""
    compile: Compile = "none"
    """How training calls the model, see core.training.compiling."""

    def __call__(self) -> dict[str, int]:
        """Returns outcome -> number of runs or trials, e.g. {'done': 3, 'failed': 1}."""
        return orderly(self.work)

    @abstractmethod
    def work(self) -> dict[str, int]:
        """As `__call__`, for a process that handles signals itself. Raises StoppedError."""

    def checkpoint(self) -> DelayedSubmission:
        """What submitit queues again on a time limit or a preemption: the same job, since all that
        it does resumes from checkpoints."""
        from sweep.worker.task_file import DelayedSubmission  # imports submitit

        return DelayedSubmission(self)

    @property
    def store(self) -> Store:
        return Store(Path(self.root))

    @property
    def stage(self) -> Path | None:
        """The folder on this node's own disk to copy data to, if it is asked for and exists."""
        return environment.node_tmpdir() if self.staging else None

    def limit_threads(self) -> None:
        if self.threads:
            import torch  # 2 s to import; only a node needs it

            torch.set_num_threads(self.threads)


def side_by_side(tasks: Iterable[Callable[[], object]]) -> dict[str, int]:
    """Do each task in its own process; if one dies the others continue. Returns how many 'ended'
    and 'died'. An exception that stops this process (StoppedError) stops them, too, and is raised
    once they have ended."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=task) for task in tasks]
    # Slurm signals every process of a job. Only this one handles SIGUSR2, by queueing the job
    # again; the children inherit SIG_IGN and are stopped by this one.
    handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    for process in processes:
        process.start()
    signal.signal(signal.SIGUSR2, handler)
    try:
        for process in processes:
            process.join()
    except BaseException:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        raise
    failed = sum(process.exitcode != 0 for process in processes)
    return {"ended": len(processes) - failed, "died": failed}


def rows_of(manifest: Path, first: int, count: int, shape: object) -> list[dict[str, Any]]:
    """Rows [first, first + count) of a frozen manifest. Raises DamagedError if some are missing: a
    worker that left them out would seem to have done them all."""
    rows = custody.rows(manifest, shape)
    if len(rows) < first + count:
        raise DamagedError(manifest, f"expected {first + count} rows, got {len(rows)}")
    return rows[first : first + count]


def orderly(work: Callable[[], dict[str, int]], *more: signal.Signals) -> dict[str, int]:
    """Do a worker's work. If told to stop, let its run save, requeue the job if it was preempted,
    and exit with code 143. more: signals that stop it besides SIGTERM and SIGINT."""
    own_signals()
    with stoppable(*more):
        try:
            return work()
        except StoppedError:
            requeue_if_preempted()
            sys.exit(STOPPED)  # SystemExit, as submitit's `except Exception` would record a failure


def may_begin(folder: RunDir, after: int, most_lost: int) -> bool:
    """Whether a run may be begun (again): not if it has failed or was cancelled since the
    submission, nor if `most_lost` processes have died since without recording a reason.

    after: the number of attempts before the submission."""
    since = find_holder(folder)
    if since is None or since.attempt <= after:
        return True
    # Not "done": another grid may have asked for other evaluations.
    if since.given_up:
        return False
    rows = [row for row in salvage(folder.attempts, shapes.Attempt) if row]
    lost = [r for r in rows if r["attempt"] > after and r["outcome"] in (None, "lost")]
    return len(lost) < most_lost


def await_former(folder: RunDir) -> None:
    """Return once no live claim on a run has this job's id. Slurm and our Ray jobs restart a job
    only after its former process has ended or its node is lost, so the claim's heartbeat is about
    to become stale."""
    job = attempt.job_id()
    patience = time.monotonic() + 2 * stale_seconds()
    while (former := find_holder(folder)) and former.live and former.info.get("job") == job:
        if job is None or time.monotonic() > patience:
            return
        time.sleep(min(1.0, beat_seconds()))


def call_off() -> None:
    """Remove the tasks of this array that have not started from the queue."""
    job = triage.own_job()
    if job:
        with suppress(ClusterError):  # they check the breaker themselves when they start
            cluster.cancel_pending(job.partition("_")[0])


def requeue_if_preempted() -> None:
    """Queue this job again if Slurm still reports it RUNNING after SIGTERM: that means preemption
    with a grace period, and a job that exits during that period is not restarted by Slurm."""
    job = triage.own_job()
    if job is None or multiprocessing.parent_process() or environment.current().rank:
        return
    if cluster.jobs([job])[job].state == "RUNNING":
        with suppress(ClusterError):  # not allowed (max_requeues: 0): `launch` resumes the run
            cluster.requeue(job)
