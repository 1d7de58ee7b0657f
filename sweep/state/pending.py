"""What submissions promise: for each run the job that is to start it, and Slurm's answer about it.

A run's folder is the truth about the run. A promise only explains why a run that no process works
on is not submitted again: a job is on its way to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, Protocol, TypeVar

from typing_extensions import TypedDict

from core.store import shapes
from core.store.files import present
from core.store.folders import Store, SweepDir
from core.store.json_files import fields, lines, salvage
from core.store.processes import process_alive
from slurm.cluster import JobState
from sweep.state import joblog, triage

Key = TypeVar("Key")

HIDDEN = "HIDDEN"
"""State of another user's job on a cluster that does not show us other users' jobs."""


class _Unread(TypedDict):
    """The config of an evaluation, of which nothing is kept."""


class _Row(TypedDict):
    """What is needed of a row of a submission's manifest, see shapes.Manifest."""

    id: str
    evals: dict[str, _Unread] | list[str]
    after: NotRequired[shapes.Count]


class Promised(NamedTuple):
    """A run in a submission, see Pending."""

    id: str
    after: int
    evals: frozenset[str]


Rows = Sequence[Promised | None]
"""The runs of a submission; None for one whose row cannot be read."""


@dataclass(frozen=True)
class Pending:
    """A submission's promise to start a run."""

    job: str
    """Its id; or its name if the launcher died before it learnt the id."""
    after: int
    """How many attempts at the run were made before it."""
    name: str = ""
    """The unique name of the array; '' for a process on this machine."""
    state: JobState | None = None
    """None until Slurm is asked, and for a live process on this machine."""
    logs: Path | None = None
    evals: frozenset[str] = frozenset()
    """Ids of the evaluations that the job will do for the run."""
    grid: str = ""
    """The other grid that the job belongs to; '' if it belongs to this one."""
    user: str | None = None
    """Who submitted it; None in old records."""
    executor: str = "local"
    """The executor it was submitted with, whose backend is asked about it."""

    @property
    def live(self) -> bool:
        """Whether the job is still queued or running. It counts as such if Slurm does not answer:
        better a run that waits too long than one that is queued twice."""
        state = self.state
        return state is None or not (state.over or (state.current and state.state == "UNKNOWN"))

    def ended(self) -> tuple[str, str] | None:
        """(class, reason) of how the job ended; None if it has not, or nothing is known."""
        if self.live or self.logs is None or self.state is None:
            return None
        return triage.of_job(self.state, joblog.path(self.logs, self.job))


class Ask(Protocol):
    """Fills in the states of promised jobs; see sweep.submit.backends.states."""

    def __call__(self, promised: Mapping[Key, Pending], /) -> dict[Key, Pending]: ...


def promises(sweep: SweepDir) -> dict[str, Pending]:
    """The newest promise to each run, by run id. Does not ask the scheduler."""
    found: dict[str, Pending] = {}
    for row in submissions(sweep):
        rows = read(sweep.path / row["manifest"])
        if "array" in row:
            found |= _of_array(row, rows, sweep.logs)
        elif alive := [item for item in row.get("processes", ()) if process_alive(item)]:
            found |= of_process(rows, str(alive[0]["pid"]))
    return found


def read(manifest: Path) -> Rows:
    """The runs of a submission; none if its manifest was deleted."""
    stat = present(manifest.stat)
    return _read(manifest, stat.st_mtime_ns, stat.st_ino) if stat else ()


@lru_cache(16)
def _read(manifest: Path, *_: int) -> Rows:
    # Kept, since whoever watches reads it again and again: 0.2 s for 10,000 runs.
    shared: dict[frozenset[str], frozenset[str]] = {}

    def promised(row: Mapping[str, Any]) -> Promised:
        evals = frozenset(row["evals"])
        return Promised(row["id"], row["after"], shared.setdefault(evals, evals))

    rows = fields(lines(manifest), manifest, _Row)
    return [None if row is None else promised(row) for row in rows]


def workers(sweep: SweepDir) -> list[Pending]:
    """The jobs of all submissions, whatever they work on, and the processes that are alive. Does
    not ask the scheduler."""
    found = []
    for row in submissions(sweep):
        if "array" in row:
            found += [_job(row, job, sweep.logs) for job, _ in tasks(row)]
        alive = [item for item in row.get("processes", ()) if process_alive(item)]
        found += [Pending(str(item["pid"]), 0) for item in alive]
    return found


def submissions(sweep: SweepDir) -> list[dict[str, Any]]:
    """The rows of a sweep's submissions.jsonl, without damaged ones."""
    return [row for row in salvage(sweep.submissions, shapes.Submission) if row]


def elsewhere(
    store: Store, sweep: SweepDir, runs: Collection[str], ask: Ask
) -> dict[str, list[Pending]]:
    """Run id -> the jobs of other grids of the store that will do this run. ask: asks the
    scheduler; jobs it does not confirm are left out, as their records may be those of a copied
    store."""
    found = {
        (run, promise.job): replace(promise, grid=other.path.name)
        for other in store.sweeps()
        if runs and other.path != sweep.path
        for run, promise in promises(other).items()
        if promise.name and run in runs
    }
    live: dict[str, list[Pending]] = {}
    for (run, _), promise in (ask(found) if found else {}).items():
        if promise.live and promise.state and promise.state.current:
            live.setdefault(run, []).append(promise)
    return live


def of_process(rows: Rows, pid: str) -> dict[str, Pending]:
    """The promise of a worker on this machine to each run of its manifest."""
    return {row.id: Pending(pid, row.after) for row in rows if row}


def tasks(row: Mapping[str, Any]) -> Iterator[tuple[str, range]]:
    """(job id, row numbers of the manifest) of each task of an array. row: of submissions.jsonl."""
    base, count, first, per = row["array"] or row["name"], row["tasks"], row["first"], row["per"]
    ids = row.get("jobs")  # recorded for plug-ins, whose job ids follow no rule
    for task in range(count):
        # submitit submits a single task as a plain job, not as an array.
        job = ids[task] if ids else f"{base}_{task}" if count > 1 else base
        yield job, range(first + task * per, min(first + (task + 1) * per, row["end"]))


def _of_array(row: Mapping[str, Any], rows: Rows, logs: Path) -> dict[str, Pending]:
    return {
        run.id: _job(row, job, logs, run)
        for job, numbers in tasks(row)
        for number in numbers
        # Damaged rows, and those of a deleted manifest, promise nothing.
        if number < len(rows) and (run := rows[number])
    }


def _job(row: Mapping[str, Any], job: str, logs: Path, run: Promised | None = None) -> Pending:
    after, evals = (run.after, run.evals) if run else (0, frozenset[str]())
    user, executor = row.get("user"), row["executor"]
    return Pending(job, after, row["name"], None, logs, evals, user=user, executor=executor)
