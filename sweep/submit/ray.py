"""The Ray backend: an order becomes one Ray job, whose driver starts a Ray task for each job of the
order (see ray_tasks). The Ray job outlives the launch; $RAY_ADDRESS selects the cluster.

A profile's `parameters` are options of a Ray task, such as `num_cpus: 4` or `num_gpus: 0.5`.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from core.config import ConfigError, nearest
from core.errors import ClusterError, counted, first_line
from core.store.files import write_text
from core.store.folders import Store
from slurm.cluster import JobState
from slurm.profile import Profile
from sweep.state.pending import Pending
from sweep.submit import bundle, local, ray_tasks, submissions
from sweep.submit.backend import Backend, Key, Ordered, Started
from sweep.submit.checks import Check
from sweep.submit.order import Order
from sweep.submit.plugin import apart

OPTIONS = ("num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "label_selector")
"""Options of a Ray task that a profile may set."""
_STATES = {"SUCCEEDED": "COMPLETED", "STOPPED": "CANCELLED", "FAILED": "FAILED"}
"""Ray's state of a job -> Slurm's term. Any other counts as pending: the driver may still have to
start a task (again)."""


class Ray(Backend):
    """Tasks on a Ray cluster, each with the GPUs of one run."""

    queued = True

    def start(self, order: Ordered) -> Started[Ordered]:
        arrays, client = dict[str, int](), _client()
        ready, left = apart(order.parts())
        for part in ready:
            name = submissions.job_name(part.sweep)
            command, manifest = _command(part, name), part.freeze()
            variables = local.setting(part.sweep, part.profile, order.code)
            numbers = range(part.jobs)
            tasks = [part.job(manifest, number, part.jobs) for number in numbers]
            bundle.write(part.sweep.logs, name, tasks)
            known = {"name": name, "array": name, "tasks": part.jobs, **part.span(numbers)}
            submissions.record(part.sweep, manifest, part.profile, **known)
            try:
                client.submit_job(
                    entrypoint=command, submission_id=name, runtime_env={"env_vars": variables}
                )
            except Exception as error:  # from the connection or the cluster
                if _state(client, name).over:
                    submissions.forget(part.sweep, name)
                raise ClusterError(f"Ray refused the job: {first_line(error)}") from error
            arrays[name] = part.jobs
        return Started(arrays, left, "jobs of other runs have to end first" if left else "")

    def script(self, order: Order) -> list[str]:
        return [
            f"# profile {part.profile.name}: a Ray job of {counted(part.jobs, 'task')} for "
            f"{counted(part.size, 'run')}\n{_command(part, f'epsweep-{part.sweep.path.name}')}"
            for part in order.parts()
        ]

    def checks(self, profile: Profile, store: Store, *, node: bool) -> Iterator[Check]:
        try:
            _options(profile)
            _client()
        except (ClusterError, ConfigError) as error:
            yield Check("executor", "fail", str(error))
        else:
            yield Check("executor", "ok", "Ray answers")

    def limited(self, profile: Profile, most: int) -> Profile:
        raise ConfigError(
            f"profile {profile.name}: --max-parallel: does not apply to executor ray, which starts "
            "as many tasks as fit by their `parameters`"
        )

    def states(self, promised: Mapping[Key, Pending]) -> dict[Key, Pending]:
        try:
            client = _client()
            told = {name: _state(client, name) for name in {p.name for p in promised.values()}}
        except Exception as error:  # not installed here, or unreachable
            silent = JobState(reason=f"no answer from Ray: {first_line(error)}")
            return {key: replace(item, state=silent) for key, item in promised.items()}
        return {key: replace(item, state=told[item.name]) for key, item in promised.items()}

    def stop(self, promised: Iterable[Pending]) -> None:
        """Writes request files that the driver looks for: Ray itself could only end the driver with
        all of its tasks."""
        for item in promised:
            if item.logs:
                write_text(ray_tasks.request(item.logs, item.job), "")


BACKEND = Ray()


def _client() -> Any:
    """The client of the cluster in $RAY_ADDRESS, else of one running on this machine. Raises
    ClusterError."""
    try:
        from ray.job_submission import JobSubmissionClient  # 1 s to import; optional
    except ImportError:
        raise ClusterError("executor ray: not installed; run: pip install 'epsweep[ray]'") from None
    try:
        return JobSubmissionClient()
    except Exception as error:  # Ray raises a dozen types
        raise ClusterError(f"executor ray: {first_line(error)}") from error


def _state(client: Any, name: str) -> JobState:
    """The state of a job. A job that the cluster does not know has ended, with the cluster that
    knew it."""
    try:
        said = str(client.get_job_status(name).value)
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
        return JobState("CANCELLED", reason="unknown to this Ray cluster", current=True)
    return JobState(_STATES.get(said, "PENDING"), current=True)


def _command(order: Order, name: str) -> str:
    """The command line of the driver. Raises ConfigError for an unknown parameter."""
    options = json.dumps(_options(order.profile))
    module = [sys.executable, "-u", "-m", ray_tasks.__name__]
    return shlex.join([*module, str(order.sweep.logs), name, str(order.jobs), options])


def _options(profile: Profile) -> dict[str, Any]:
    """The options of the Ray tasks. Raises ConfigError for an unknown parameter."""
    for key in profile.parameters:
        if key not in OPTIONS:
            place = f"profile {profile.name}: parameters: {key}"
            raise ConfigError(f"{place}: unknown key{nearest(key, OPTIONS)}")
    return {"num_gpus": profile.gpus_per_run, **profile.parameters}
