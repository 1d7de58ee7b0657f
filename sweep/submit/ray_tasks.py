"""The driver of a Ray job: starts a Ray task for each job of an order, and again if it dies.

`python -m sweep.submit.ray_tasks LOGS NAME COUNT OPTIONS` runs on the head node and needs hardly
any resources. A task runs its job in a separate process, as Ray installs its own signal handlers in
its workers: `python -m sweep.submit.ray_tasks LOGS NAME COUNT NUMBER`. That process saves its run
and ends if its worker dies, whether that was killed or the driver has ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from core.store.files import exists
from sweep.submit import bundle
from sweep.worker import attempt
from sweep.worker.job import STOPPED

POLL_S = 5.0
"""Seconds between two looks for requests to end jobs."""
PATIENCE_S = 60.0
"""Seconds that a process may take to save its run."""
AGAIN = 5
"""How often a job is restarted after its process or its node has died."""


def request(logs: Path, job: str) -> Path:
    """The file whose presence asks the driver to end a job."""
    return logs / f"{job}.end"


def drive(logs: Path, name: str, count: int, options: dict[str, object]) -> None:
    """Do all jobs; Ray chooses when and where."""
    import ray  # not needed in the processes of jobs

    ray.init(log_to_driver=False)
    task = ray.remote(max_retries=0, **options)(_supervise)

    def start(number: int) -> object:
        return task.remote(sys.executable, str(logs), name, count, number)

    begun = {start(number): number for number in range(count)}
    deaths, ended = Counter[int](), set[int]()
    while begun:
        done, _ = ray.wait([*begun], timeout=POLL_S)
        for ref in done:
            number = begun.pop(ref)
            try:
                died = ray.get(ref) < 0 or ray.get(ref) == STOPPED
            except ray.exceptions.RayError as error:  # its worker or node died, not the job itself
                print(f"{_job(name, count, number)}: {error}", flush=True)
                died = True
            deaths[number] += died
            if died and number not in ended and deaths[number] <= AGAIN:
                begun[start(number)] = number
        for ref, number in begun.items():
            if number not in ended and exists(request(logs, _job(name, count, number))):
                ended.add(number)
                ray.cancel(ref)


def _supervise(python: str, logs: str, name: str, count: int, number: int) -> int:
    """A Ray task: run a job in a separate process; returns its exit code, negative if a signal
    killed it."""
    stem = f"{logs}/{_job(name, count, number)}_0_log"
    command = [python, "-u", "-m", "sweep.submit.ray_tasks", logs, name, str(count), str(number)]
    with open(f"{stem}.out", "ab") as out, open(f"{stem}.err", "ab") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    try:
        return process.wait()
    except KeyboardInterrupt:  # how Ray cancels
        process.terminate()
        try:
            return process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _job(name: str, count: int, number: int) -> str:
    """The id of a job, as in the records of submissions."""
    return f"{name}_{number}" if count > 1 else name


def do(logs: Path, name: str, count: int, number: int) -> None:
    """Do one job in this process. Raises AlienError."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: a signal if the worker dies
    os.environ[attempt.JOB] = _job(name, count, number)
    os.environ.pop("SUBMITIT_EXECUTOR", None)  # Ray may have been started by a job of submitit
    bundle.read(logs, name, number)[0]()


if __name__ == "__main__":
    folder, order, jobs, what = sys.argv[1:]
    if what.startswith("{"):
        drive(Path(folder), order, int(jobs), json.loads(what))
    else:
        do(Path(folder), order, int(jobs), int(what))
