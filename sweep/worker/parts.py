"""What workers tell each other: which parts of a grid have ended.

If each of W workers looked at each of N runs before it ends, they would look W times N times. So a
worker that has seen all runs of a part end writes an empty file with the part's name. If another
worker finds that this file has appeared or changed since it began, it is as if it had looked at the
runs itself. No clocks are compared, and what was written before a worker began counts for nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from core.store.files import present, write_text
from sweep.grid import Run

SIZE = 16
"""Runs of a part: few enough for a worker to look at all of them, and enough that a grid of 10,000
runs has only some 600 parts."""


class Parts:
    """The parts of a grid as one worker sees them. folder: shared by all workers of the sweep."""

    def __init__(self, runs: Sequence[Run], folder: Path) -> None:
        self._folder, self._ended, self._entered = folder, set[str](), ""
        self._of, self._open = dict[str, str](), dict[str, set[str]]()
        for first in range(0, len(runs), SIZE):
            members = {run.id: run.eval_ids for run in runs[first : first + SIZE]}
            # Named after what has to be done: with other evaluations it is another part.
            name = hashlib.sha256(repr(members).encode()).hexdigest()[:16]
            self._open[name] = {*members}
            self._of |= dict.fromkeys(members, name)
        there = present(partial(os.listdir, folder)) or []
        self._before = {name: self._written(name) for name in there}

    def _written(self, name: str) -> int | None:
        """When a part's file was written, in any clock; None if it does not exist."""
        found = present(partial(os.stat, self._folder / name))
        return found and found.st_mtime_ns

    def ended(self, run: Run) -> bool:
        """Whether a worker has found, since this one began, that the run's part has ended. Looks at
        the disk when the part is not that of the last call."""
        name = self._of[run.id]
        if name != self._entered and name not in self._ended:
            self._entered = name
            if self._written(name) not in (None, self._before.get(name)):
                self._ended.add(name)
        return name in self._ended

    def end(self, run: Run) -> None:
        """Note that this worker need not look at the run again."""
        name = self._of[run.id]
        self._open[name].discard(run.id)
        if not self._open[name]:
            with suppress(OSError):  # others then look themselves
                self._folder.mkdir(exist_ok=True)
                write_text(self._folder / name, "")
