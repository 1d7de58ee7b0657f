"""Sharing the runs of a grid without a list of jobs: each process claims runs that no other holds.

A process begins at a random place in the grid and goes round. At first nearly every run it looks at
is free, and only towards the end does it meet runs that others have done. It does not look again at
runs that have ended, nor at parts of the grid that have ended by what another process says.
"""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from core.config.settings import beat_seconds
from core.data.digests import Known
from core.errors import DamagedError
from core.store import shapes
from core.store.claims import shared_clock
from core.store.folders import RunDir, Store
from core.store.json_files import read_json, salvage
from sweep.grid import Run
from sweep.state import decision, pace, parents
from sweep.state.pending import Pending
from sweep.state.status import LAUNCHABLE, State
from sweep.worker.parts import Parts

MOST_LOST = 5
"""After this many processes in a row have died in a run without recording a reason, the run is left
to `sweep launch` and `sweep retry`: it would kill every worker that takes it."""
CLOCK_S = 60.0
"""Seconds for which a measured difference to the file server's clock is used."""


COME_BACK = ("skipped", "lost", "interrupted")
"""Outcomes of runs that may be claimed again."""


def share(
    runs: Sequence[Run],
    store: Store,
    do: Callable[[Run], str],
    parts: Path,
    *,
    promises: Callable[[], Mapping[str, Pending]] = dict,
    idle: float = 0.0,
) -> Counter[str]:
    """Do runs until none can be claimed; returns outcome -> number of runs.

    do: claims a run and executes it; returns its outcome, 'skipped' if another process was faster.
    parts: the folder where processes that share these runs tell which have ended.
    promises: run id -> the queued job that will do it, asked once per round. idle: seconds to wait
    after the last run, in case another process drops one. Raises what `do` raises.
    """
    chance = random.Random()
    first = chance.randrange(len(runs) or 1)
    left, outcomes = [*runs[first:], *runs[:first]], Counter[str]()
    open_ = {run.id for run in runs}  # those that may still be claimed, here or elsewhere
    look, known, last = _Look(store), Parts(runs, parts), time.monotonic()
    while True:
        looked = time.thread_time()
        promised, ahead = promises(), deque(left)
        left, begun = [], False
        while ahead:
            run = ahead.popleft()
            if known.ended(run):
                open_.discard(run.id)
                continue
            if parents.obstacle(run.config.parent, store.runs):
                if run.config.parent in open_:
                    left.append(run)
                else:  # waiting would not help
                    open_.discard(run.id)
                continue
            state = look(run, promised.get(run.id))
            outcome = do(run) if state in LAUNCHABLE else ""
            if outcome not in ("", "skipped"):
                outcomes[outcome] += 1
                begun, last = True, time.monotonic()
            if outcome in COME_BACK or state in (State.PENDING, State.RUNNING):
                left.append(run)
            else:
                open_.discard(run.id)
                known.end(run)
            if ahead and (outcome == "skipped" or state is State.RUNNING):
                # Another process is at this place: jump, as two side by side would race for every
                # run.
                ahead.rotate(chance.randrange(len(ahead)))
        wait = last + idle - time.monotonic()
        if not left or (not begun and wait <= 0):
            return outcomes
        if not begun:
            time.sleep(min(wait, pace.pause(looked, 3 * beat_seconds())))


class _Look:
    """Reads the state of a run, as far as a claim depends on it."""

    def __init__(self, store: Store) -> None:
        self.store, self.known = store, Known(store)
        self._ahead, self._until = 0.0, 0.0

    def __call__(self, run: Run, promise: Pending | None) -> State:
        folder = self.store.run(run.id)
        if _is_complete(folder, run):
            return State.DONE  # perhaps damaged or stale, but a worker repairs neither
        if not folder.path.is_dir() and promise is None:
            return State.NEW
        facts = decision.read(run, folder, promise, self._clock(), self.known)
        state, _ = decision.decide(facts)
        if state is State.INTERRUPTED and _is_deadly(folder):
            return State.FAILED
        return state

    def _clock(self) -> float:
        """The file server's time, in seconds since the epoch, since the nodes' clocks differ."""
        if time.monotonic() > self._until:
            self.store.runs.mkdir(parents=True, exist_ok=True)
            self._ahead = shared_clock(self.store.runs) - time.time()
            self._until = time.monotonic() + CLOCK_S
        return time.time() + self._ahead


def _is_complete(folder: RunDir, run: Run) -> bool:
    try:
        result = read_json(folder.result)
    except DamagedError:
        return False
    return result is not None and folder.holds(result, run.eval_ids)


def _is_deadly(folder: RunDir) -> bool:
    """Whether the last processes that had the run all died without recording a reason."""
    rows = salvage(folder.attempts, shapes.Attempt)[-MOST_LOST:]
    return len(rows) == MOST_LOST and all(row and row["outcome"] in (None, "lost") for row in rows)
