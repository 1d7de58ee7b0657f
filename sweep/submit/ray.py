"""The backend of a Ray cluster: an order is one Ray job, whose driver makes a task of each of its
jobs (see ray_tasks). The job outlives the launch; $RAY_ADDRESS says on which cluster it is.

A profile's `parameters` are those of a Ray task, such as `num_cpus: 4` or `num_gpus: 0.5`.
"""

from __future__ import annotations

import json
import shlex
import sys
import uuid
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
"""Of a Ray task, what a profile may say."""
_STATES = {"SUCCEEDED": "COMPLETED", "STOPPED": "CANCELLED", "FAILED": "FAILED"}
"""In Slurm's words. The driver of any other may not have started a task yet, or again."""


class Ray(Backend):
    """Tasks of a Ray cluster, with the GPUs that one run needs."""

    queued = True

    def start(self, order: Ordered) -> Started[Ordered]:
        arrays, client = dict[str, int](), _client()
        ready, left = apart(order.parts())
        for part in ready:
            name = f"epsweep-{part.sweep.path.name}-{uuid.uuid4().hex[:8]}"
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
            except Exception as error:  # of the connection, or what the cluster answers
                if _state(client, name).over:
                    submissions.forget(part.sweep, name)
                raise ClusterError(f"Ray refused the job: {first_line(error)}") from error
            arrays[name] = part.jobs
        return Started(arrays, left, "jobs of other runs have to be over first" if left else "")

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
            f"profile {profile.name}: --max-parallel: executor ray has no such limit, "
            "but its tasks take what `parameters` ask for"
        )

    def states(self, promised: Mapping[Key, Pending]) -> dict[Key, Pending]:
        try:
            client = _client()
            told = {name: _state(client, name) for name in {p.name for p in promised.values()}}
        except Exception as error:  # not installed here, or out of reach
            silent = JobState(reason=f"no answer from Ray: {first_line(error)}")
            return {key: replace(item, state=silent) for key, item in promised.items()}
        return {key: replace(item, state=told[item.name]) for key, item in promised.items()}

    def stop(self, promised: Iterable[Pending]) -> None:
        """The driver looks for these files; Ray can only end it with all of its tasks."""
        for item in promised:
            if item.logs:
                write_text(ray_tasks.request(item.logs, item.job), "")


BACKEND = Ray()


def _client() -> Any:
    """Of the cluster that $RAY_ADDRESS names, else the one that runs here. Raises ClusterError."""
    try:
        from ray.job_submission import JobSubmissionClient  # takes a second, and may not be there
    except ImportError:
        raise ClusterError("executor ray: not installed, expected `epsweep[ray]`") from None
    try:
        return JobSubmissionClient()
    except Exception as error:  # Ray raises a dozen kinds
        raise ClusterError(f"executor ray: {first_line(error)}") from error


def _state(client: Any, name: str) -> JobState:
    """Of a job. One that the cluster does not know has ended with the cluster that did."""
    try:
        said = str(client.get_job_status(name).value)
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
        return JobState("CANCELLED", reason="unknown to this Ray cluster", current=True)
    return JobState(_STATES.get(said, "PENDING"), current=True)


def _command(order: Order, name: str) -> str:
    """What the driver runs. Raises ConfigError."""
    options = json.dumps(_options(order.profile))
    module = [sys.executable, "-u", "-m", ray_tasks.__name__]
    return shlex.join([*module, str(order.sweep.logs), name, str(order.jobs), options])


def _options(profile: Profile) -> dict[str, Any]:
    """Of the tasks. Raises ConfigError."""
    for key in profile.parameters:
        if key not in OPTIONS:
            place = f"profile {profile.name}: parameters: {key}"
            raise ConfigError(f"{place}: unknown key{nearest(key, OPTIONS)}")
    return {"num_gpus": profile.gpus_per_run, **profile.parameters}
