"""The local backend: worker processes on this machine, from submitit's local executor."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import submitit

from core.config import ConfigError
from core.errors import counted
from core.store.folders import SweepDir
from core.store.processes import describe_process
from slurm.profile import Profile
from sweep.state.pending import Pending
from sweep.submit import frozen_code, submissions
from sweep.submit.backend import Backend, Crew, Ordered, Started
from sweep.submit.order import Order, Share, Task
from sweep.worker import custody
from sweep.worker.task_file import DelayedSubmission

if TYPE_CHECKING:
    from sweep.submit.backend import Job

FOREVER_MIN = 60 * 24 * 365
"""A year: local workers have no time limit, but submitit requires one."""


class Executor(submitit.LocalExecutor):
    """submitit's local executor, with workers that refuse tasks others could have written."""

    def _internal_process_submissions(self, delayed_submissions: list[Any]) -> list[Any]:
        tasks: list[Any] = [DelayedSubmission(item.function) for item in delayed_submissions]
        return super()._internal_process_submissions(tasks)

    @property
    def _submitit_command_str(self) -> str:
        return command(self.folder)


def command(logs: Path) -> str:
    """The command line of a worker."""
    return shlex.join([sys.executable, "-u", "-m", "sweep.submit.bundle", str(logs)])


class Local(Backend):
    """Worker processes on this machine, which share the order."""

    def start(self, order: Ordered) -> Started[Ordered]:
        manifest, share = order.freeze(), share_of(order.profile, order.size)

        def work(number: int) -> Task:
            return order.worker(manifest, number, share)

        known = (order.sweep, manifest, order.profile, order.code)
        return Started(crew=engage(work, share.workers, *known))

    def script(self, order: Order) -> list[str]:
        """The command line of one worker."""
        workers = min(order.profile.workers, max(1, order.size))
        share = f"{counted(workers, 'worker process')} for {counted(order.size, 'run')}"
        return [f"# profile {order.profile.name}: {share}\n{command(order.sweep.logs)}"]

    def limited(self, profile: Profile, most: int) -> Profile:
        return profile.model_copy(update={"workers": most})

    def stop(self, promised: Iterable[Pending]) -> None:
        for item in promised:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(item.job), signal.SIGTERM)


BACKEND = Local()


def share_of(profile: Profile, tasks: int) -> Share:
    """How many workers to start for `tasks` runs or trials, and what each gets. Raises ConfigError
    if one run needs more GPUs than there are."""
    gpus, ranks = visible_gpus(), profile.ranks
    workers = min(profile.workers, tasks)
    if ranks > 1 and gpus:
        workers = min(workers, len(gpus) // ranks)
        if not workers:
            raise ConfigError(
                f"profile {profile.name}: gpus_per_run: expected at most {len(gpus)}, the GPUs "
                f"visible on this machine, got {ranks}"
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
    """Start workers and record them. work: worker number -> what that worker does. code: the user's
    code that they need."""
    gpus, ranks = visible_gpus(), profile.ranks
    variables = setting(sweep, profile, code)

    def worker(number: int) -> Job:
        executor = Executor(sweep.logs)
        first = number * ranks % len(gpus) if gpus else 0
        mine = gpus[first : first + ranks]
        executor.update_parameters(
            timeout_min=FOREVER_MIN, tasks_per_node=ranks, gpus_per_node=len(mine)
        )
        executor.parameters["visible_gpus"] = mine  # set here, as update_parameters only takes ints
        with environ(variables), _background(sweep.logs / "workers.log"):
            return executor.submit(work(number))

    jobs = [worker(number) for number in range(workers)]
    processes = [describe_process(int(job.job_id)) for job in jobs]
    submissions.record(sweep, manifest, profile, processes=processes)
    return Crew(jobs, worker, manifest)


def setting(sweep: SweepDir, profile: Profile, code: frozen_code.Code) -> dict[str, str]:
    """The environment variables to add for jobs that inherit ours. As on Slurm, a job that starts
    later imports the frozen code, not code edited meanwhile or packages in the working folder; the
    user's PYTHONPATH comes after it. Raises ConfigError for a folder that submitit cannot log
    to."""
    if odd := re.search("%[jtaA]", str(sweep.logs)):
        raise ConfigError(
            f"{sweep.path}: a results folder may not have {odd[0]!r} in its path: submitit would "
            "replace it by a job's id"
        )
    given = profile.environ()
    frozen = frozen_code.snapshot(sweep, code)
    behind = given.get("PYTHONPATH", os.environ.get("PYTHONPATH"))
    ahead = os.pathsep.join(filter(None, (str(frozen), behind)))
    ours = {"PYTHONPATH": ahead, "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return {**given, **ours, custody.OWNER: str(frozen.stat().st_uid)}


@contextmanager
def environ(variables: Mapping[str, str]) -> Iterator[None]:
    """Context manager: set these environment variables for this process and those it starts."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _background(log: Path) -> Iterator[None]:
    """Context manager: child processes start detached from the terminal: they write to `log`, and
    neither Ctrl-C nor a hang-up reaches submitit's controllers. To stop a worker we send its
    controller SIGTERM, which it passes on, and the worker takes the time it needs to save its run.
    """
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


def visible_gpus() -> list[str]:
    """This machine's NVIDIA GPUs that CUDA_VISIBLE_DEVICES allows, found without torch: indices, or
    the GPU- and MIG- names given there."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return [str(index) for index, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    names = (name.strip() for name in shown.split(","))
    return [name for name in names if name.isdigit() or name.startswith(("GPU-", "MIG-"))]
