"""The tasks of one array in one file: the launcher writes it, each task reads its own line.

submitit writes one file per task before it submits anything, which takes minutes for ten thousand
runs on a shared file system. Here each task writes its file itself when it starts: the batch script
runs `python -m sweep.submit.bundle FOLDER NAME` in place of submitit's module.

The array's file is JSON, and is refused if another user could have written it. It is named by the
job's name, which is known before sbatch, so tasks find it even if the launcher dies after sbatch.
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
from core.store.files import exists, remove, write_atomic
from core.store.json_files import parse_json
from slurm import environment
from sweep.worker import custody
from sweep.worker.task_file import DelayedSubmission, do_task

if TYPE_CHECKING:
    from sweep.submit.order import Task  # it imports what a node does not need


class Executor(SlurmExecutor):
    """submitit's Slurm executor with one file per array."""

    def write(self, tasks: Sequence[Task]) -> None:
        """Write the array's file, see `write` below."""
        limits = {
            "timeout_min": self.parameters.get("time", 5),
            "timeouts": self.max_num_timeout,
        }
        write(Path(self.folder), self.parameters["job_name"], tasks, limits)

    def forget(self) -> None:
        """Remove the array's file."""
        remove(file(Path(self.folder), self.parameters["job_name"]))

    def text(self, tasks: int, command: str | None = None) -> str:
        """The batch script of an array, or of a plain job for a single task, as submitit renders
        it. command: what it runs, by default its tasks."""
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
    """The file with the tasks of the array `name`."""
    return folder / f"{name}_tasks.jsonl"


def write(
    folder: Path, name: str, tasks: Sequence[Task], limits: Mapping[str, Any] | None = None
) -> None:
    """Write the file of an array: a line with what all tasks share, then a line for each. limits:
    of the job, for `read`."""
    fields = [asdict(task) for task in tasks]
    same = {k: v for k, v in fields[0].items() if all(row[k] == v for row in fields)}
    job = f"{type(tasks[0]).__module__}.{type(tasks[0]).__name__}"
    rows = ({k: v for k, v in row.items() if k not in same} for row in fields)
    custody.write(file(folder, name), [{"job": job, **(limits or {}), "same": same}, *rows])


def read(folder: Path, name: str, number: int) -> tuple[Task, Mapping[str, Any]]:
    """(task `number` of an array, the limits of its job). Raises AlienError."""
    path = file(folder, name)
    lines = custody.read(path).splitlines()
    head, own = (parse_json(lines[n], path) for n in (0, 1 + number))
    module, _, kind = head["job"].rpartition(".")
    task: Task = getattr(import_module(module), kind)(**head["same"], **own)
    return task, head


def take(folder: Path, name: str) -> None:
    """Write this task's own file where submitit looks for it. A requeued task keeps its file, in
    which submitit counts its time-outs; otherwise a file there is left from an earlier job to which
    Slurm gave the same id, and is replaced. Raises AlienError."""
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
    """Run a task. Arguments: `FOLDER NAME` for one of an array; `FOLDER` for a local worker's,
    which is already written."""
    folder, *names = sys.argv[1:]
    try:
        for name in names:
            take(Path(folder), name)
        do_task(folder)
    except AlienError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
