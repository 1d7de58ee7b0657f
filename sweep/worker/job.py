"""What a node runs: `RunJob` works through rows of a frozen manifest, one run after another.

It is pickled by reference and holds only paths and numbers; the state of a run is in the run's
folder. Workers with the same manifest share the work: each claims the next run that no other holds.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import EvalConfig, RunConfig
from core.config.run import parent_of
from core.config.settings import beat_seconds, stale_seconds
from core.errors import ClusterError, DamagedError, StoppedError
from core.options import Compile, Mode, Options
from core.store import shapes
from core.store.folders import RunDir, Store
from core.store.holder import find_holder
from core.store.json_files import salvage
from slurm import cluster, environment
from sweep.state import breaker, parents, repair, triage
from sweep.worker import attempt, custody
from sweep.worker.stop import own_signals, stoppable

if TYPE_CHECKING:
    from core.machine.team import Team  # imports torch
    from sweep.worker.task_file import DelayedSubmission

log = logging.getLogger("epsweep")
STOPPED = 143
"""Exit code of a job that was told to stop: 128 + SIGTERM."""


@dataclass(frozen=True)
class RunJob:
    """Runs rows [first, first + count) of a manifest that are neither done nor claimed."""

    root: str
    sweep: str
    manifest: str
    first: int
    count: int
    tracking: Mode = "auto"
    threads: int | None = None
    gpus: float = 0
    """GPUs that one run occupies; a fraction if runs share one."""
    max_lost: int = 3
    """How many attempts at one run within this submission may die without recording a reason; after
    more, the run itself seems to kill its workers."""
    together: bool = False
    """Run the rows at the same time, one process each, instead of one after another."""
    alone: bool = False
    """No other job has these rows. So a live claim under this job's id is left from before Slurm
    restarted the job: wait until its heartbeat is stale."""
    staging: bool = False
    """Copy the prepared data to the node's local disk first, if it has one."""
    compile: Compile = "none"
    """How training calls the model, see core.training.compiling."""
    batches: int | None = None
    """For a rehearsal: train on this many batches in all, divided among the epochs."""

    def __call__(self) -> dict[str, int]:
        """Returns outcome -> number of runs, e.g. {'done': 3, 'failed': 1, 'skipped': 2}.

        If the job has several processes (ranks), they do each run together."""
        if environment.current().rank:
            return self._assist()
        return orderly(self.work)

    def work(self) -> dict[str, int]:
        """The same, for a process that handles signals itself. Raises StoppedError."""
        if self.together and self.count > 1:
            return self._side_by_side()
        team, outcomes = self._team(), Counter[str]()
        rows = self._rows()
        for number in self._turns(rows):
            if team:
                team.share(number)
            if number is None:
                continue
            # A rehearsal is meant to find every fault, and each costs only seconds.
            sweep = Store(Path(self.root)).sweep(self.sweep)
            held = None if self.batches else breaker.tripped(sweep)
            if held:
                log.warning("%s", held)
                call_off()
                break
            outcome = self._one(rows[number], team)
            outcomes[outcome] += 1
            if team and outcome not in ("done", "skipped"):
                break  # the other processes of the team have ended or are out of step
        else:
            if team:
                team.part()
        return dict(outcomes)

    def _assist(self) -> dict[str, int]:
        """Work on the same rows as the leader, whose team this process is in."""
        outcomes, team = Counter[str](), self._team()
        assert team
        # The leader gets the same signals and reports how the run ended; see core.machine.team.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        rows, ended, store = self._rows(), 0, Store(Path(self.root))
        while ended < len(rows):
            number = team.share()
            if number is None:
                continue
            ended += 1
            config, evals = _parsed(rows[number])
            options = self._options(config, store)
            outcomes[attempt.assist(config, evals, store, options, team)] += 1
        team.part()
        return dict(outcomes)

    def _team(self) -> Team | None:
        """The processes of this job, once all have joined; None if it has only one."""
        here = environment.current()
        if here.world_size == 1:
            return None
        self._limit_threads()
        from submitit import JobEnvironment  # 0.1 s to import; a launch does not need it

        from core.machine import team

        job = f"{JobEnvironment().job_id}_{here.restarts}"
        file = Store(Path(self.root)).sweep(self.sweep).logs / f"{job}_team.json"
        return team.join(file, here.rank, here.world_size, local_rank=here.local_rank)

    def _limit_threads(self) -> None:
        if self.threads:
            import torch  # 2 s to import; only a node needs it

            torch.set_num_threads(self.threads)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit queues again on a time limit or a preemption: the same job, since every run
        resumes from its checkpoint."""
        from sweep.worker.task_file import DelayedSubmission  # imports submitit

        return DelayedSubmission(self)

    def _rows(self) -> list[dict[str, Any]]:
        return rows_of(Path(self.manifest), self.first, self.count, shapes.Manifest)

    def _side_by_side(self) -> dict[str, int]:
        """One process per row, on the same GPU; if one dies the others continue."""
        threads = max(1, self.threads // self.count) if self.threads else None
        return side_by_side(
            replace(self, first=row, count=1, together=False, threads=threads)
            for row in range(self.first, self.first + self.count)
        )

    def _turns(self, rows: Sequence[dict[str, Any]]) -> Iterator[int | None]:
        """The numbers of the rows in the order in which they are to be done: one whose parent
        another process works on comes after those that can begin. None after each wait for it."""
        left, passed = deque(range(len(rows))), 0
        runs = Store(Path(self.root)).runs
        while left:
            number = left.popleft()
            if parents.is_awaited(parent_of(rows[number]["config"]["weights"]), runs):
                left.append(number)
                passed += 1
                if passed == len(left):
                    time.sleep(min(1.0, beat_seconds()))
                    passed = 0
                    yield None
            else:
                passed = 0
                yield number

    def _one(self, row: dict[str, Any], team: Team | None) -> str:
        config, evals = _parsed(row)
        if not self._may_begin(Store(Path(self.root)).run(config.id), row["after"]):
            if team:
                team.share(False)
            return "skipped"
        return self.do(config, evals, team)

    def do(self, config: RunConfig, evals: Sequence[EvalConfig], team: Team | None = None) -> str:
        """Execute one run, which need not be among the rows. Returns as attempt.make."""
        store = Store(Path(self.root))
        if parents.obstacle(config.parent, store.runs):
            if team:
                team.share(False)
            return "skipped"
        self._limit_threads()
        options = self._options(config, store)
        return attempt.make(config, evals, store, options, gpus=self.gpus, team=team)

    def _options(self, config: RunConfig, store: Store) -> Options:
        images = max(1, self.batches // config.epochs) * config.batch if self.batches else None
        asked = Options(
            tracking=self.tracking,
            group=self.sweep,
            images=images,
            rehearsal=self.batches is not None,
            compile=self.compile,
            stage=environment.node_tmpdir() if self.staging else None,
        )
        return repair.read(store.run(config.id)).applied(asked)

    def _may_begin(self, folder: RunDir, after: int) -> bool:
        """Whether this submission may begin the run (again)."""
        if self.alone:
            await_former(folder)
        return may_begin(folder, after, self.max_lost)


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


def _parsed(row: dict[str, Any]) -> tuple[RunConfig, list[EvalConfig]]:
    evals = [EvalConfig.parse(item) for item in row["evals"].values()]
    return RunConfig.parse(row["config"], where=row["id"]), evals


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
    if since.info.get("outcome") in ("failed", "cancelled"):
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
