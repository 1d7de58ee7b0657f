"""A task's file, which submitit writes for a job and reads in the job: only its user can change it.

Not in `custody`, because submitit takes 0.1 s to import and commands that only look at runs do not
need it.
"""

from __future__ import annotations

import pickle
from pathlib import Path

from submitit.core import utils

from sweep.worker.custody import own, read


class DelayedSubmission(utils.DelayedSubmission):  # submitit looks for this name
    """submitit's pickled task, in a file that only its user can change."""

    def dump(self, filepath: str | Path) -> None:
        with own():
            super().dump(filepath)

    @classmethod
    def load(cls, filepath: str | Path) -> DelayedSubmission:
        """Raises AlienError, before anything is unpickled, if another user could have written the
        file. The file that is checked is the one that is read, even if it is replaced meanwhile."""
        task: DelayedSubmission = pickle.loads(read(Path(filepath)))
        return task


def do_task(folder: str) -> None:
    """Run the task in `folder` through submitit, as every job does. Raises AlienError."""
    from submitit.core import submission  # imports numpy, which a launch does not need

    utils.DelayedSubmission = DelayedSubmission  # type: ignore[misc]
    submission.process_job(folder)
