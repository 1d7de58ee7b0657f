"""The Ray backend: an order becomes one Ray job, whose driver starts a Ray task for each job of the
order. The Ray job outlives the launch; $RAY_ADDRESS selects the cluster. A profile's `parameters`
are options of a Ray task, such as `num_cpus: 4` or `num_gpus: 0.5`.

The driver, `python -m sweep.submit.ray LOGS NAME COUNT OPTIONS`, needs hardly any resources. A task
starts `python -m sweep.submit.ray LOGS NAME NUMBER`: a process, as Ray installs its own signal
handlers in its workers. It ends if its worker dies, and saves its run if Ray gives it the time.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.errors import ClusterError, first_line
from core.store.files import write_text
from slurm.cluster import JobState
from slurm.profile import Profile
from sweep.state.pending import Pending
from sweep.submit import bundle, submissions
from sweep.submit.order import Order
from sweep.submit.scheduler import Scheduler, require_known
from sweep.worker import attempt
from sweep.worker.job import STOPPED

OPTIONS = ("num_cpus", "num_gpus", "memory", "resources", "accelerator_type", "label_selector")
"""Options of a Ray task that a profile may set."""
STATES = {"SUCCEEDED": "COMPLETED", "STOPPED": "CANCELLED", "FAILED": "FAILED"}
"""Ray's state of a job -> Slurm's term. Any other counts as pending."""
AGAIN = 5
"""How often Ray starts a job again whose worker or process has died."""
PATIENCE_S = 60.0
"""Seconds that a process may take to save its run."""


class Ray(Scheduler):
    """Tasks on a Ray cluster, each with the GPUs of one run."""

    executor = "ray"

    def send(self, part: Order, name: str, variables: Mapping[str, str]) -> dict[str, int]:
        client, command, manifest = _client(), self.text(part, name), part.freeze()
        tasks = [part.job(manifest, number, part.jobs) for number in range(part.jobs)]
        bundle.write(part.sweep.logs, name, tasks)
        known = {"name": name, "array": name, "tasks": part.jobs, **part.span(range(part.jobs))}
        submissions.record(part.sweep, manifest, part.profile, **known)
        environment = {"env_vars": dict(variables)}
        try:
            client.submit_job(entrypoint=command, submission_id=name, runtime_env=environment)
        except Exception as error:  # from the connection or the cluster
            if not self.states({0: Pending(name, 0, name)})[0].live:
                submissions.forget(part.sweep, name)
            raise ClusterError(f"Ray refused the job: {first_line(error)}") from error
        return {name: part.jobs}

    def text(self, part: Order, name: str) -> str:
        """The command line of the driver."""
        require_known(part.profile, OPTIONS)
        options = {"num_gpus": part.profile.gpus_per_run, **part.profile.parameters}
        words = [str(part.sweep.logs), name, str(part.jobs), json.dumps(options)]
        return shlex.join([sys.executable, "-u", "-m", "sweep.submit.ray", *words])

    def verify(self, profile: Profile) -> str:
        require_known(profile, OPTIONS)
        _client()
        return "Ray answers"

    def told(self, items: Collection[Pending]) -> dict[str, JobState]:
        """A job that the cluster does not know has ended, with the cluster that knew it."""
        known = {job.submission_id: STATES.get(job.status.value) for job in _client().list_jobs()}
        states = {item.job: known.get(item.name, "FAILED") or "PENDING" for item in items}
        return {job: JobState(state, current=True) for job, state in states.items()}

    def stop(self, promised: Iterable[Pending]) -> None:
        """Ask the driver to end these tasks: Ray itself could only end it with all of its tasks."""
        for item in promised:
            if item.logs:
                write_text(item.logs / f"{item.job}.end", "")


BACKEND = Ray()


def _client() -> Any:
    """The client of the cluster in $RAY_ADDRESS, else of one here. Raises ClusterError."""
    try:
        from ray.job_submission import JobSubmissionClient  # 1 s to import; optional

        return JobSubmissionClient()
    except ImportError:
        raise ClusterError("executor ray: not installed; run: pip install 'epsweep[ray]'") from None
    except Exception as error:  # Ray raises a dozen types
        raise ClusterError(f"executor ray: {first_line(error)}") from error


def drive(logs: Path, name: str, count: int, options: dict[str, object]) -> None:
    """Do all jobs; Ray chooses when and where. Looks every 5 s for requests to end one."""
    import ray

    ray.init(log_to_driver=False)
    again = {"max_retries": AGAIN, "retry_exceptions": [ChildProcessError]}
    task = ray.remote(**again, **options)(_supervise)
    jobs = [f"{name}_{number}" for number in range(count)] if count > 1 else [name]
    line = [sys.executable, "-u", "-m", "sweep.submit.ray", str(logs), name]
    tasks = {job: task.remote([*line, str(n)], f"{logs}/{job}") for n, job in enumerate(jobs)}
    left = [*tasks.values()]
    while left:
        _, left = ray.wait(left, num_returns=len(left), timeout=5)
        for job in tasks.keys() & {file.stem for file in logs.glob("*.end")}:
            ray.cancel(tasks[job])
            (logs / f"{job}.end").unlink()


def _supervise(command: list[str], stem: str) -> None:
    """A Ray task: do a job in a separate process. Raises ChildProcessError if that was killed."""
    variables = os.environ | {attempt.JOB: Path(stem).name}
    with open(f"{stem}_0_log.out", "ab") as out, open(f"{stem}_0_log.err", "ab") as err:
        process = subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
    try:
        code = process.wait()
    except KeyboardInterrupt:  # how Ray cancels
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_S)
        process.kill()
        raise
    if code < 0 or code == STOPPED:
        raise ChildProcessError(f"{stem}: exit code {code}")


if __name__ == "__main__":
    folder, order, number, *more = sys.argv[1:]
    if more:
        drive(Path(folder), order, int(number), json.loads(more[0]))
    else:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: if the worker dies
        os.environ.pop("SUBMITIT_EXECUTOR", None)  # Ray may have been started by a submitit job
        bundle.read(Path(folder), order, int(number))[0]()
