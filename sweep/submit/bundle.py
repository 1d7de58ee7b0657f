"""The tasks of one array in one file: the launcher writes it, each task takes its own out of it.

submitit writes a file per task before it submits anything, which takes minutes for ten thousand
runs on a shared file system. Here a task's own file appears when that task starts, on its node:
`python -m sweep.submit.bundle FOLDER NAME` is what the batch script runs in place of submitit's
module.
The file has the name of the job, which is known before sbatch: a launcher that dies in between
leaves nothing undone that the tasks wait for.
"""

from __future__ import annotations

import os
import pickle
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission
from submitit.slurm.slurm import SlurmExecutor

from core.store.folders import exists, write_atomic
from slurm import environment


class Executor(SlurmExecutor):
    """submitit's Slurm executor with one file per array. Tasks must be picklable by reference."""

    def write(self, tasks: Sequence[Callable[[], Any]]) -> None:
        """The file of an array's tasks."""
        delayed = [DelayedSubmission(task) for task in tasks]
        for one in delayed:
            one.set_timeout(self.parameters.get("time", 5), self.max_num_timeout)
        content = pickle.dumps(delayed)
        bundle = file(Path(self.folder), self.parameters["job_name"])
        write_atomic(bundle, lambda draft: draft.write(content))

    def text(self, tasks: int, command: str | None = None) -> str:
        """The batch script of an array, as submitit makes it; of a plain job for a single task.
        command: what it runs, if not its tasks."""
        array = type(self)(self.folder, self.max_num_timeout, python=self.python)
        array.parameters.update(self.parameters)
        if tasks > 1:
            array.parameters["map_count"] = tasks
        command = command or self._submitit_command_str
        made: str = array._make_submission_file_text(command, "")
        return made

    @property
    def _submitit_command_str(self) -> str:
        where = shlex.join([str(self.folder), self.parameters["job_name"]])
        return f"{self.python} -u -m sweep.bundle {where}"


def file(folder: Path, name: str) -> Path:
    """Where the tasks of the array of that name are."""
    return folder / f"{name}_tasks.pkl"


def take(folder: Path, name: str) -> None:
    """Write this task's own file, where submitit looks for it. One that was queued again has it,
    and its time-outs are counted there; any other that lies there is of a job that Slurm forgot,
    whose id it has given to this one."""
    os.environ["SUBMITIT_FOLDER"] = str(folder)
    here = submitit.JobEnvironment()
    mine, number = here.paths.submitted_pickle, here.job_id.partition("_")[2]
    if not (environment.current().restarts and exists(mine)):
        task = pickle.loads(file(folder, name).read_bytes())[int(number or 0)]
        write_atomic(mine, lambda draft: pickle.dump(task, draft))


def main() -> None:
    """What a job runs: this task, through submitit."""
    from submitit.core.submission import process_job  # imports numpy, which a launch does without

    folder, name = sys.argv[1:]
    take(Path(folder), name)
    process_job(folder)


if __name__ == "__main__":
    main()
