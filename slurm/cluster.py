"""What the cluster says about jobs, and the few things we tell it: a hint, never the truth.

No answer, an empty one or one that comes too late is "UNKNOWN", never a failure: the run folders
are the truth.
"""

import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from core.errors import ClusterError
from slurm.command import Answer, ask
from slurm.ids import compress as compress
from slurm.ids import expand as expand

# Slurm's words for a job that has ended. One that will run again is PENDING in squeue.
OVER = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"}
    | {"NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}
)
_UNCLEAR = (OVER - {"COMPLETED"}) | {"UNKNOWN"}  # sacct may know more
_SQUEUE = "JobArrayID:|,State:|,Reason:|,NodeList:|,exit_code:|,StartTime:|,Name:|"
_SUBMIT_S = 300.0  # a controller that is busy makes sbatch wait
_SUBMITTED = r"^(?:Submitted batch job )?(\d+)(?:;\S+| on cluster \S+)?\s*$"
_SACCT = "JobID,State,NodeList,ExitCode,JobName"


@dataclass(frozen=True)
class JobState:
    """One job as Slurm sees it: `state` is its word in capitals, or UNKNOWN.

    `exit_code` and `signal` are the batch script's, None while it runs. `current`: squeue answered.
    Without that, an end may be one of an earlier attempt: in the accounting NODE_FAIL stays while
    the job waits to run again. `name` tells whether it is the job we mean: a slurmctld that crashes
    forgets the last seconds, and gives the ids of those jobs to others. `started`: when the job
    began to run this time (Unix seconds), as far as squeue knows. `id` is "" where nobody knows it.
    """

    state: str = "UNKNOWN"
    reason: str = ""
    nodes: str = ""
    exit_code: int | None = None
    signal: int | None = None
    name: str = ""
    started: float | None = None
    oom: bool = False
    current: bool = False
    id: str = field(default="", compare=False)

    @property
    def over(self) -> bool:
        """It has ended and will not come back by itself."""
        return self.current and self.state in OVER


@dataclass(frozen=True)
class Partition:
    """One partition; `max_time_min` is None where there is no limit."""

    name: str
    default: bool
    up: bool
    nodes: int
    max_time_min: int | None


def available() -> bool:
    """Whether this machine has Slurm's commands."""
    return all(map(shutil.which, ("sbatch", "squeue", "scontrol", "scancel")))


def several() -> str | None:
    """What is wrong with the clusters that the environment names; None if it is at most one: an id
    means a job of one cluster only."""
    named, only_sbatch = (os.environ.get(f"{n}_CLUSTERS", "") for n in ("SLURM", "SBATCH"))
    if only_sbatch not in ("", named):
        return f"SBATCH_CLUSTERS={only_sbatch}: squeue does not read it, export SLURM_CLUSTERS"
    if "," in named or named == "all":
        return f"SLURM_CLUSTERS={named}: expected the name of one cluster"
    return None


def jobs(ids: Iterable[str], names: Collection[str] = ()) -> dict[str, JobState]:
    """State of each id ("7", or "7_3" for a task of an array), UNKNOWN where nobody knows.

    names: what the jobs are called, where each name is unique. squeue is then asked by name, so
    that no other job that got one of the ids is taken for it; and in place of an id that was never
    learnt, `ids` may hold the name ("sweep-5e", "sweep-5e_3").

    One squeue, and one sacct for those that squeue has forgotten or calls failed. Of the two,
    squeue is right about the state: the accounting lags behind.
    """
    wanted = [*ids]
    if not wanted:
        return {}
    current, queue = _squeue(("--name", ",".join(names)) if names else ("-j", _bases(wanted)))
    states = {job: replace(_find(queue, job), current=current) for job in wanted}
    unclear = [j for j, s in states.items() if s.state in _UNCLEAR and j[0].isdigit()]
    records = _sacct(unclear) if unclear else {}
    if names:
        records = {job: record for job, record in records.items() if record.name in names}
    return states | {job: _merged(states[job], _find(records, job)) for job in unclear}


def cancel(ids: Iterable[str]) -> None:
    """Ends jobs and tasks with one scancel; one already over is no fault. Raises ClusterError."""
    if expressions := compress(ids):
        _must("scancel", *expressions)


def cancel_pending(array: str) -> None:
    """Takes those tasks of an array out of the queue that do not run. Raises ClusterError."""
    _must("scancel", "--state=PENDING", array)


def requeue(job: str) -> None:
    """Ends a running job and puts it back into the queue. Raises ClusterError."""
    _must("scontrol", "requeue", job)


def release(job: str) -> None:
    """Lets a job start that is held in the queue. Raises ClusterError."""
    _must("scontrol", "release", job)


def submit(script: str | Path, name: str) -> str:
    """Hands a batch script over; the id of the job, which has that unique name: what sbatch prints
    may hold a site's greetings, numbers among them. Raises ClusterError with Slurm's reason."""
    answer = ask("sbatch", "--parsable", str(script), timeout_s=_SUBMIT_S, plain={})
    if not answer.ok:
        raise ClusterError(f"sbatch refused: {answer.error or answer.text.strip()}")
    found = re.findall(_SUBMITTED, answer.text, re.M)
    if len(found) != 1:
        found = [job.partition("_")[0] for job in _squeue(("--name", name))[1] if job[0].isdigit()]
    if not found:
        raise ClusterError(f"sbatch told no job id, and squeue knows no job {name}")
    job: str = found[0]
    return job


def hides_jobs() -> bool:
    """Whether this cluster keeps other users' jobs from us (PrivateData); True if it does not say.
    Root sees all."""
    said = re.search(r"^PrivateData\s*= (.*?)\s*$", ask("scontrol", "show", "config").text, re.M)
    return os.geteuid() != 0 and (said is None or "jobs" in said[1].split(","))


def test_only(script: str | Path) -> str:
    """What `sbatch --test-only` says of a script: when and where it would start.

    Raises ClusterError with Slurm's reason if it would be refused. Submits nothing.
    """
    return _must("sbatch", "--test-only", str(script))


def partitions() -> dict[str, Partition]:
    """The partitions by name. Raises ClusterError."""
    found = {}
    for line in _must("scontrol", "show", "partition", "--oneliner").splitlines():
        said = dict(item.split("=", 1) for item in line.split() if "=" in item)
        if "PartitionName" not in said:  # a site's greeting
            continue
        found[said["PartitionName"]] = Partition(
            name=said["PartitionName"],
            default=said["Default"] == "YES",
            up=said["State"] == "UP",
            nodes=int(said["TotalNodes"]),
            max_time_min=_minutes(said["MaxTime"]),
        )
    return found


def _squeue(selection: tuple[str, str]) -> tuple[bool, dict[str, JobState]]:
    """Whether it answered, and its rows: jobs in the queue, or over since less than MinJobAge."""
    answer = ask("squeue", "-h", "-t", "all", "-O", _SQUEUE, *selection)
    rows: dict[str, JobState] = {}
    for job, state, reason, nodes, status, start, name in _rows(answer, 7):
        exit_code, signal = _exit(state, status)
        started = _moment(start) if state == "RUNNING" else None
        row = JobState(state, reason, nodes, exit_code, signal, name.removesuffix("|"), started)
        for one in expand(job):
            rows[one] = rows[row.name + one[len(one.partition("_")[0]) :]] = replace(row, id=one)
    # squeue calls a lone id that slurmctld has forgotten an error; it is an answer all the same.
    return answer.ok or "Invalid job id" in answer.error, rows


def _sacct(ids: list[str]) -> dict[str, JobState]:
    """Rows of the accounting, with `oom` from the steps: the job itself often just says FAILED."""
    answer = ask("sacct", "-nP", "-o", _SACCT, "-j", _bases(ids))
    rows: dict[str, JobState] = {}
    killed: set[str] = set()
    for id_, state, nodes, status, name in _rows(answer, 5):
        job, _, step = id_.partition(".")
        if state == "OUT_OF_MEMORY":
            killed.update(expand(job))
        if not step:
            word = state.partition(" ")[0]  # "CANCELLED by 1000"
            exit_code, signal = _exit(word, status)
            where = nodes.removeprefix("None assigned")
            row = JobState(word, "", where, exit_code, signal, name)
            rows |= {one: replace(row, id=one) for one in expand(job)}
    return {job: replace(row, oom=job in killed) for job, row in rows.items()}


def _rows(answer: Answer, columns: int) -> list[list[str]]:
    """Its lines, cut at the bars; a job's name comes last and may hold bars of its own."""
    cut = [line.split("|", columns - 1) for line in answer.text.splitlines()]
    return [row for row in cut if len(row) == columns]


def _exit(state: str, status: str) -> tuple[int, int] | tuple[None, None]:
    """Exit code and signal out of "3:0", or of the wait status that squeue prints up to 22.05."""
    if state not in OVER:
        return None, None
    code, colon, signal = status.partition(":")
    return (int(code), int(signal)) if colon else (int(code) >> 8, int(code) & 127)


def _moment(text: str) -> float | None:
    """Local time as Slurm prints it, in Unix seconds."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:  # N/A
        return None


def _merged(queue: JobState, record: JobState) -> JobState:
    if queue.state == "UNKNOWN" and (record.state in OVER or not queue.current):
        return replace(record, current=queue.current)
    if queue.state == "UNKNOWN" or record.state not in OVER:
        return queue  # the accounting still tells of an earlier time
    return replace(queue, exit_code=record.exit_code, signal=record.signal, oom=record.oom)


def _find(rows: Mapping[str, JobState], job: str) -> JobState:
    # The never started rest of an array, cancelled, is one row under the id of the array.
    return rows.get(job) or rows.get(job.rpartition("_")[0]) or JobState()


def _bases(ids: Iterable[str]) -> str:
    return ",".join(sorted({job.partition("_")[0] for job in ids}))


def _minutes(limit: str) -> int | None:
    """Slurm's [days-]hours:minutes:seconds, None for UNLIMITED."""
    if limit == "UNLIMITED":
        return None
    days, _, clock = limit.rpartition("-")
    hours, minutes, _ = clock.split(":")
    return (int(days or 0) * 24 + int(hours)) * 60 + int(minutes)


def _must(*command: str) -> str:
    answer = ask(*command)
    if not answer.ok:
        raise ClusterError(f"{command[0]}: {answer.error or 'failed without a word'}")
    return answer.text.strip() or answer.error
