"""The tasks of one array in one file: the launcher writes it, each task takes its own out of it.

submitit writes a file per task before it submits anything, which takes minutes for ten thousand
runs on a shared file system. Here a task's own file appears when that task starts, on its node:
`python -m sweep.submit.bundle FOLDER NAME` is what the batch script runs in place of submitit's
module.
It is JSON, and what others could have written is refused.
The file has the name of the job, which is known before sbatch: a launcher that dies in between
leaves nothing undone that the tasks wait for.
"""

from __future__ import annotations

import os
import pickle
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import submitit
from submitit.slurm.slurm import SlurmExecutor

from core.errors import AlienError
from core.store.files import exists, write_atomic
from core.store.json_files import parse_json
from slurm import environment
from sweep.worker import custody
from sweep.worker.task_file import DelayedSubmission, do_task

if TYPE_CHECKING:
    from sweep.submit.order import Task  # and a node has no use for what that imports


class Executor(SlurmExecutor):
    """submitit's Slurm executor with one file per array."""

    def write(self, tasks: Sequence[Task]) -> None:
        """The file of an array's tasks."""
        limits = {
            "timeout_min": self.parameters.get("time", 5),
            "timeouts": self.max_num_timeout,
        }
        write(Path(self.folder), self.parameters["job_name"], tasks, limits)

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
        return f"{self.python} -u -m {__name__} {where}"


def file(folder: Path, name: str) -> Path:
    """Where the tasks of the array of that name are."""
    return folder / f"{name}_tasks.jsonl"


def write(
    folder: Path, name: str, tasks: Sequence[Task], limits: Mapping[str, Any] | None = None
) -> None:
    """The file of an array's tasks: what they have in common, then a line for each."""
    fields = [asdict(task) for task in tasks]
    same = {k: v for k, v in fields[0].items() if all(row[k] == v for row in fields)}
    job = f"{type(tasks[0]).__module__}.{type(tasks[0]).__name__}"
    rows = ({k: v for k, v in row.items() if k not in same} for row in fields)
    custody.write(file(folder, name), [{"job": job, **(limits or {}), "same": same}, *rows])


def read(folder: Path, name: str, number: int) -> tuple[Task, Mapping[str, Any]]:
    """Task `number` of an array, and the limits of its job. Raises AlienError."""
    path = file(folder, name)
    lines = custody.read(path).splitlines()
    head, own = (parse_json(lines[n], path) for n in (0, 1 + number))
    module, _, kind = head["job"].rpartition(".")
    task: Task = getattr(import_module(module), kind)(**head["same"], **own)
    return task, head


def take(folder: Path, name: str) -> None:
    """Write this task's own file, where submitit looks for it. One that was queued again has it,
    and its time-outs are counted there; any other that lies there is of a job that Slurm forgot,
    whose id it has given to this one. Raises AlienError."""
    os.environ["SUBMITIT_FOLDER"] = str(folder)
    here = submitit.JobEnvironment()
    mine, number = here.paths.submitted_pickle, here.job_id.partition("_")[2]
    if environment.current().restarts and exists(mine):
        return
    job, limits = read(folder, name, int(number or 0))
    task = DelayedSubmission(job)
    task.set_timeout(limits["timeout_min"], limits["timeouts"])
    with custody.own():
        write_atomic(mine, lambda draft: pickle.dump(task, draft))


def main() -> None:
    """`FOLDER NAME`, as a job of an array; `FOLDER`, as a worker whose task lies there already."""
    folder, *names = sys.argv[1:]
    try:
        for name in names:
            take(Path(folder), name)
        do_task(folder)
    except AlienError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
