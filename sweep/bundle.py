"""The tasks of one array in one file: the launcher writes it, each task takes its own out of it.

submitit writes a file per task before it submits anything, which takes minutes for ten thousand
runs on a shared file system. Here a task's own file appears when that task starts, on its node:
`python -m sweep.bundle FOLDER` is what the batch script runs in place of submitit's own module.
"""

from __future__ import annotations

import os
import pickle
import shlex
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission
from submitit.slurm.slurm import SlurmExecutor, SlurmJob

from core.rundir import write_atomic

PATIENCE_S = 60.0
"""The launcher learns an array's id from sbatch, and names its file after that."""


class Executor(SlurmExecutor):
    """submitit's Slurm executor with one file per array. Tasks must be picklable by reference."""

    def _internal_process_submissions(
        self, delayed_submissions: Sequence[DelayedSubmission]
    ) -> list[submitit.Job[Any]]:
        tasks = list(delayed_submissions)
        if len(tasks) == 1:
            return super()._internal_process_submissions(tasks)
        for task in tasks:
            task.set_timeout(self.parameters.get("time", 5), self.max_num_timeout)
        draft = Path(self.folder) / f".{uuid.uuid4().hex}.pkl"
        draft.write_bytes(pickle.dumps(tasks))
        array = type(self)(self.folder, self.max_num_timeout, python=self.python)
        array.update_parameters(**self.parameters)
        array.parameters["map_count"] = len(tasks)
        try:
            first = array._submit_command(self._submitit_command_str)
        except BaseException:
            draft.unlink()
            raise
        draft.rename(_file(Path(self.folder), first.job_id))
        names = [f"{first.job_id}_{number}" for number in range(len(tasks))]
        return [SlurmJob(folder=self.folder, job_id=name, tasks=[0]) for name in names]

    @property
    def _submitit_command_str(self) -> str:
        return f"{self.python} -u -m sweep.bundle {shlex.quote(str(self.folder))}"


def _file(folder: Path, array: str) -> Path:
    return folder / f"{array}_tasks.pkl"


def take(folder: Path) -> None:
    """Write this task's own file, where submitit looks for it; nothing where it is there already,
    as for a task that was queued again. Raises RuntimeError after a minute without either."""
    os.environ["SUBMITIT_FOLDER"] = str(folder)
    here = submitit.JobEnvironment()
    array, _, number = here.job_id.partition("_")
    mine, bundle = here.paths.submitted_pickle, _file(folder, array)
    end = time.monotonic() + PATIENCE_S
    while not mine.exists() and not (number and bundle.exists()):
        if time.monotonic() > end:
            raise RuntimeError(f"neither {mine.name} nor {bundle.name} appeared in {folder}")
        time.sleep(0.5)
    if not mine.exists():
        task = pickle.loads(bundle.read_bytes())[int(number)]
        write_atomic(mine, lambda file: pickle.dump(task, file))


def main() -> None:
    """What a job runs: this task, through submitit."""
    from submitit.core.submission import process_job  # imports numpy, which a launch does without

    take(Path(sys.argv[1]))
    process_job(sys.argv[1])


if __name__ == "__main__":
    main()
