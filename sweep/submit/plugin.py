"""The backend for executors that installed packages add to submitit: a profile names the executor
and gives its `parameters`.

Jobs run the frozen code if the executor passes on the environment (PYTHONPATH). A launch that dies
between submitting a job and recording it leaves one unrecorded job, which does no harm: claims keep
it from repeating what later jobs do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.core.core import PicklingExecutor
from submitit.core.plugins import get_executors

from core.config import ConfigError
from core.errors import ClusterError
from core.store.folders import SweepDir
from slurm import cluster
from slurm.cluster import JobState
from slurm.profile import Profile
from sweep.state.pending import Pending
from sweep.submit import local, submissions
from sweep.submit.order import Order
from sweep.submit.scheduler import Scheduler, require_known
from sweep.worker import custody

SHARED = ("timeout_min", "mem_gb", "cpus_per_task", "stderr_to_stdout")
"""Parameters that every submitit executor accepts, without those that other keys of a profile
set."""
_OURS = {"name", "nodes", "tasks_per_node", "gpus_per_node"}


@dataclass(frozen=True)
class Plugin(Scheduler):
    """Jobs of an executor from another package, submitted one at a time."""

    executor: str

    def send(self, part: Order, name: str, variables: Mapping[str, str]) -> dict[str, int]:
        made, jobs, manifest = self.made(part.sweep, part.profile, name), list[str](), part.freeze()
        for number in range(part.jobs):
            with local.environ(variables):
                jobs.append(self._submitted(made, part.job(manifest, number, part.jobs)))
            known = {"name": name, "array": jobs[0], "jobs": jobs, "tasks": len(jobs)}
            rows = part.span(range(len(jobs)))
            submissions.record(part.sweep, manifest, part.profile, **known, **rows)
        return {jobs[0]: len(jobs)}

    def _submitted(self, made: Any, task: Any) -> str:
        try:
            return str(made.submit(task).job_id)
        except Exception as error:  # executors raise anything
            raise ClusterError(f"executor {self.executor} refused: {_line(error)}") from error

    def made(self, sweep: SweepDir, profile: Profile, name: str) -> Any:
        """The executor, set up by the profile. Raises ConfigError for bad parameters, ClusterError
        if the executor cannot be used here."""
        kind = self._kind()
        known = [*SHARED, *sorted(kind._valid_parameters() - {*SHARED, *_OURS})]
        require_known(profile, known)
        try:
            made = submitit.AutoExecutor(sweep.logs, cluster=self.executor)
        except Exception as error:  # constructors raise anything
            raise ClusterError(f"executor {self.executor}: {_line(error)}") from error
        asked = {"mem_gb": profile.slurm.mem_gb, "gpus_per_node": profile.gpus_per_run or None}
        given = profile.parameters | {key: value for key, value in asked.items() if value}
        shared = {key: value for key, value in given.items() if key in {*SHARED, *_OURS}}
        try:
            # Two calls: in one, submitit wants the executor's name as a prefix of its own keys.
            made.update_parameters(name=name, **shared)
            own = {key: value for key, value in given.items() if key not in shared}
            made._executor.update_parameters(**own)
        except Exception as error:  # submitit raises AssertionError, executors raise anything
            raise ConfigError(f"profile {profile.name}: parameters: {_line(error)}") from error
        return made._executor

    def _kind(self) -> Any:
        try:
            return get_executors()[self.executor]
        except KeyError:
            raise ClusterError("not installed here") from None

    def text(self, part: Order, name: str) -> str:
        made = self.made(part.sweep, part.profile, name)
        if not isinstance(made, PicklingExecutor):
            return ""
        command = made._submitit_command_str
        return made._make_submission_file_text(command, "ID") or command

    def told(self, items: Collection[Pending]) -> dict[str, JobState]:
        # All jobs are created before any is asked: submitit then asks about all of them at once.
        jobs = {item.job: self._job(item) for item in items}
        return {id: self._state(job) for id, job in jobs.items()}

    def _state(self, job: Any) -> JobState:
        """The state in Slurm's terms. A job that the executor does not know yet counts as live."""
        over, said = job.done(), str(job.state).upper()
        if not over:
            if said == "UNKNOWN":
                return JobState(reason=f"unknown to executor {self.executor}")
            return JobState("RUNNING" if said == "RUNNING" else "PENDING", current=True)
        ending = custody.outcome(job.paths.result_pickle)
        if ending == "success":
            return JobState("COMPLETED", current=True)
        if ending == "error":
            return JobState("FAILED", exit_code=1, current=True)
        return JobState(said if said in cluster.OVER else "FAILED", current=True)

    def _job(self, item: Pending) -> Any:
        return self._kind().job_class(item.logs, item.job)

    def stop(self, promised: Iterable[Pending]) -> None:
        for item in promised:
            try:
                self._job(item).cancel(check=False)
            except Exception as error:  # executors raise anything
                raise ClusterError(
                    f"executor {self.executor}: job {item.job} cannot be ended: {_line(error)}"
                ) from error

    def verify(self, profile: Profile) -> str:
        with tempfile.TemporaryDirectory() as folder:
            self.made(SweepDir(Path(folder)), profile, "epsweep-doctor")
        return f"{self.executor} accepts the profile's parameters"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
