"""The backend for executors that installed packages add to submitit: a profile names the executor
and gives its `parameters`.

Jobs run the frozen code if the executor passes on the environment (PYTHONPATH). A launch that dies
between submitting a job and recording it leaves one unrecorded job, which does no harm: claims keep
it from repeating what later jobs do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import submitit
from submitit.core.core import PicklingExecutor
from submitit.core.plugins import get_executors

from core.config import ConfigError, nearest
from core.errors import ClusterError, counted
from core.store.folders import Store, SweepDir
from slurm import cluster
from slurm.cluster import JobState
from slurm.profile import Profile
from sweep.state.pending import Pending
from sweep.submit import local, submissions
from sweep.submit.backend import Backend, Key, Ordered, Started
from sweep.submit.checks import Check
from sweep.submit.order import Order
from sweep.worker import custody

SHARED = ("timeout_min", "mem_gb", "cpus_per_task", "stderr_to_stdout")
"""Parameters that every submitit executor accepts, without those that other keys of a profile
set."""
_OURS = {"name", "nodes", "tasks_per_node", "gpus_per_node"}


@dataclass(frozen=True)
class Plugin(Backend):
    """Jobs of an executor from another package, submitted one at a time."""

    executor: str
    queued = True

    def start(self, order: Ordered) -> Started[Ordered]:
        arrays: dict[str, int] = {}
        ready, left = apart(order.parts())
        for part in ready:
            name = submissions.job_name(part.sweep)
            made, jobs = self.made(part.sweep, part.profile, name), list[str]()
            variables = local.setting(part.sweep, part.profile, order.code)
            manifest = part.freeze()
            for number in range(part.jobs):
                with local.environ(variables):
                    jobs.append(self._submitted(made, part.job(manifest, number, part.jobs)))
                known = {"name": name, "array": jobs[0], "jobs": jobs, "tasks": len(jobs)}
                rows = part.span(range(len(jobs)))
                submissions.record(part.sweep, manifest, part.profile, **known, **rows)
            arrays |= {jobs[0]: len(jobs)} if jobs else {}
        return Started(arrays, left, "jobs of other runs have to end first" if left else "")

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
        place = f"profile {profile.name}: parameters"
        for key in profile.parameters:
            if key not in known:
                raise ConfigError(f"{place}: {key}: unknown key{nearest(key, known)}")
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
            raise ConfigError(f"{place}: {_line(error)}") from error
        return made._executor

    def _kind(self) -> Any:
        try:
            return get_executors()[self.executor]
        except KeyError:
            raise ClusterError("not installed here") from None

    def script(self, order: Order) -> list[str]:
        scripts = []
        for part in order.parts():
            made = self.made(part.sweep, part.profile, f"epsweep-{part.sweep.path.name}")
            jobs, runs = counted(part.jobs, "job"), counted(part.size, "run")
            what = f"{jobs} of executor {self.executor} for {runs}"
            scripts.append(f"# profile {part.profile.name}: {what}")
            if isinstance(made, PicklingExecutor):
                command = made._submitit_command_str
                scripts[-1] += f"\n{made._make_submission_file_text(command, 'ID') or command}"
        return scripts

    def limited(self, profile: Profile, most: int) -> Profile:
        raise ConfigError(
            f"profile {profile.name}: --max-parallel: does not apply to executor {self.executor}; "
            "set its own limit in the profile's parameters, if it has one"
        )

    def states(self, promised: Mapping[Key, Pending]) -> dict[Key, Pending]:
        """Creates all jobs before it asks any: submitit then asks about all of them at once."""
        jobs: dict[str, Any] = {}
        try:
            for item in promised.values():
                jobs[item.job] = self._job(item)
            told = {id: self._state(job) for id, job in jobs.items()}
        except Exception as error:  # not installed here, or unreachable
            silent = JobState(reason=f"no answer from executor {self.executor}: {_line(error)}")
            told = {item.job: silent for item in promised.values()}
        return {key: replace(item, state=told[item.job]) for key, item in promised.items()}

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

    def checks(self, profile: Profile, store: Store, *, node: bool) -> Iterator[Check]:
        """Whether the plug-in works here and accepts the profile's parameters."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                self.made(SweepDir(Path(folder)), profile, "epsweep-doctor")
            except (ClusterError, ConfigError) as error:
                yield Check("executor", "fail", str(error))
            else:
                yield Check("executor", "ok", f"{self.executor} accepts the profile's parameters")


def apart(parts: Sequence[Ordered]) -> tuple[list[Ordered], list[Ordered]]:
    """(orders that may begin, orders that have to wait for other jobs): only Slurm can make a job
    wait for others."""
    ready, waiting = list[Ordered](), list[Ordered]()
    for part in parts:
        (waiting if part.profile.slurm.slurm_additional_parameters else ready).append(part)
    return ready, waiting


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
