"""Job states according to Slurm, and the few commands sent to it.

Slurm's answers are hints: a missing, empty or late one means "UNKNOWN", never a failure. The run
folders are the source of truth.
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

# Slurm's states of a job that has ended. One that will run again is PENDING in squeue.
OVER = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"}
    | {"NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}
)
_UNCLEAR = (OVER - {"COMPLETED"}) | {"UNKNOWN"}  # sacct may know more
_SQUEUE = "JobArrayID:|,State:|,Reason:|,NodeList:|,exit_code:|,StartTime:|,Name:|"
_SUBMIT_S = 300.0  # sbatch waits while the controller is busy
_SUBMITTED = r"^(?:Submitted batch job )?(\d+)(?:;\S+| on cluster \S+)?\s*$"
_SACCT = "JobID,State,NodeList,ExitCode,JobName"


@dataclass(frozen=True)
class JobState:
    """A job as Slurm sees it. state: Slurm's word in capitals, or UNKNOWN.

    exit_code, signal: of the batch script, None while it runs. current: whether squeue answered; if
    not, an end may be that of an earlier attempt, since the accounting keeps NODE_FAIL while the
    job waits to run again. name: shows whether it is the intended job, since a slurmctld that
    crashes forgets its last seconds and assigns the ids again. started: when the job last began to
    run, in Unix seconds, if squeue knows. id: "" if unknown.
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
        """Whether the job has ended and Slurm will not start it again."""
        return self.current and self.state in OVER


@dataclass(frozen=True)
class Partition:
    """A partition; `max_time_min` is None if it has no time limit."""

    name: str
    default: bool
    up: bool
    nodes: int
    max_time_min: int | None


def available() -> bool:
    """Whether this machine has Slurm's commands."""
    return all(map(shutil.which, ("sbatch", "squeue", "scontrol", "scancel")))


def several() -> str | None:
    """The problem if the environment names several clusters, else None: job ids are unique only
    within one cluster."""
    named, only_sbatch = (os.environ.get(f"{n}_CLUSTERS", "") for n in ("SLURM", "SBATCH"))
    if only_sbatch not in ("", named):
        return f"SBATCH_CLUSTERS={only_sbatch}: squeue ignores it, export SLURM_CLUSTERS instead"
    if "," in named or named == "all":
        return f"SLURM_CLUSTERS={named}: expected the name of one cluster"
    return None


def jobs(ids: Iterable[str], names: Collection[str] = ()) -> dict[str, JobState]:
    """The state of each id ("7", or "7_3" for a task of an array), UNKNOWN if Slurm does not know.

    names: the jobs' names, if these are unique. squeue is then asked by name, so that a job that
    was assigned one of the ids later is not mistaken for it. `ids` may then contain a name in place
    of an id that is unknown ("sweep-5e", "sweep-5e_3").

    Runs squeue once, and sacct once for jobs that squeue has forgotten or reports as failed. If
    they differ about a state, squeue is right: the accounting lags behind.
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
    """End jobs and tasks with one scancel; ended ones are ignored. Raises ClusterError."""
    if expressions := compress(ids):
        _must("scancel", *expressions)


def cancel_pending(array: str) -> None:
    """Remove the tasks of an array that are not running from the queue. Raises ClusterError."""
    _must("scancel", "--state=PENDING", array)


def requeue(job: str) -> None:
    """End a running job and put it back into the queue. Raises ClusterError."""
    _must("scontrol", "requeue", job)


def release(job: str) -> None:
    """Allow a job that is held in the queue to start. Raises ClusterError."""
    _must("scontrol", "release", job)


def submit(script: str | Path, name: str) -> str:
    """Submit a batch script; returns the job's id. name: the job's unique name, by which squeue
    finds it if the id is unclear, since sites let sbatch print greetings, with numbers in them.
    Raises ClusterError with Slurm's reason."""
    answer = ask("sbatch", "--parsable", str(script), timeout_s=_SUBMIT_S, plain={})
    if not answer.ok:
        raise ClusterError(f"sbatch refused: {answer.error or answer.text.strip()}")
    found = re.findall(_SUBMITTED, answer.text, re.M)
    if len(found) != 1:
        found = [job.partition("_")[0] for job in _squeue(("--name", name))[1] if job[0].isdigit()]
    if not found:
        raise ClusterError(f"sbatch printed no job id, and squeue lists no job {name}")
    job: str = found[0]
    return job


def hides_jobs() -> bool:
    """Whether this cluster hides other users' jobs (PrivateData); True if unknown. Root sees all
    jobs."""
    said = re.search(r"^PrivateData\s*= (.*?)\s*$", ask("scontrol", "show", "config").text, re.M)
    return os.geteuid() != 0 and (said is None or "jobs" in said[1].split(","))


def test_only(script: str | Path) -> str:
    """The output of `sbatch --test-only` for a script: when and where it would start.

    Submits nothing. Raises ClusterError with Slurm's reason if the script would be refused.
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
    """Whether squeue answered, and its rows: jobs in the queue or ended within MinJobAge."""
    answer = ask("squeue", "-h", "-t", "all", "-O", _SQUEUE, *selection)
    rows: dict[str, JobState] = {}
    for job, state, reason, nodes, status, start, name in _rows(answer, 7):
        exit_code, signal = _exit(state, status)
        started = _moment(start) if state == "RUNNING" else None
        row = JobState(state, reason, nodes, exit_code, signal, name.removesuffix("|"), started)
        for one in expand(job):
            rows[one] = rows[row.name + one[len(one.partition("_")[0]) :]] = replace(row, id=one)
    # For a single id that slurmctld has forgotten, squeue fails; that is an answer, too.
    return answer.ok or "Invalid job id" in answer.error, rows


def _sacct(ids: list[str]) -> dict[str, JobState]:
    """Rows of the accounting, with `oom` from job steps, since the job itself often only says
    FAILED."""
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
    """The lines of an answer, split at '|'; a job's name comes last and may contain '|'."""
    cut = [line.split("|", columns - 1) for line in answer.text.splitlines()]
    return [row for row in cut if len(row) == columns]


def _exit(state: str, status: str) -> tuple[int, int] | tuple[None, None]:
    """Exit code and signal from "3:0", or from the wait status that squeue up to 22.05 prints."""
    if state not in OVER:
        return None, None
    code, colon, signal = status.partition(":")
    return (int(code), int(signal)) if colon else (int(code) >> 8, int(code) & 127)


def _moment(text: str) -> float | None:
    """Local time as Slurm prints it -> Unix seconds; None if it is not a time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:  # N/A
        return None


def _merged(queue: JobState, record: JobState) -> JobState:
    if queue.state == "UNKNOWN" and (record.state in OVER or not queue.current):
        return replace(record, current=queue.current)
    if queue.state == "UNKNOWN" or record.state not in OVER:
        return queue  # the accounting is outdated
    return replace(queue, exit_code=record.exit_code, signal=record.signal, oom=record.oom)


def _find(rows: Mapping[str, JobState], job: str) -> JobState:
    # Tasks that were cancelled before they started are one row under the array's id.
    return rows.get(job) or rows.get(job.rpartition("_")[0]) or JobState()


def _bases(ids: Iterable[str]) -> str:
    return ",".join(sorted({job.partition("_")[0] for job in ids}))


def _minutes(limit: str) -> int | None:
    """Slurm's [days-]hours:minutes:seconds in minutes, None for UNLIMITED."""
    if limit == "UNLIMITED":
        return None
    days, _, clock = limit.rpartition("-")
    hours, minutes, _ = clock.split(":")
    return (int(days or 0) * 24 + int(hours)) * 60 + int(minutes)


def _must(*command: str) -> str:
    answer = ask(*command)
    if not answer.ok:
        raise ClusterError(f"{command[0]}: {answer.error or 'failed without a message'}")
    return answer.text.strip() or answer.error
