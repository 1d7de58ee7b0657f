"""The file of a task, which submitit writes for a job and reads in it: only its user can change it.

Apart from the rest of the custody, because submitit takes 0.1 s to import, which commands that only
look at runs do without.
"""

from __future__ import annotations

import pickle
from pathlib import Path

from submitit.core import utils

from sweep.worker.custody import own, read


class DelayedSubmission(utils.DelayedSubmission):  # submitit knows it by this name
    """A task as submitit keeps it for its job: nobody else can change it."""

    def dump(self, filepath: str | Path) -> None:
        with own():
            super().dump(filepath)

    @classmethod
    def load(cls, filepath: str | Path) -> DelayedSubmission:
        """Raises AlienError, before anything is unpickled, if somebody else could have written it:
        of the file that was looked at, not of one that is put in its place meanwhile."""
        task: DelayedSubmission = pickle.loads(read(Path(filepath)))
        return task


def do_task(folder: str) -> None:
    """What every job of ours runs: its task, through submitit. Raises AlienError."""
    from submitit.core import submission  # imports numpy, which a launch does without

    utils.DelayedSubmission = DelayedSubmission  # type: ignore[misc]
    submission.process_job(folder)
