"""The Slurm backend: an order becomes sbatch arrays, through submitit. It does not wait for them.

Task i of an array has rows [first + i k, first + (i + 1) k) of the submission's manifest, with
k = runs_per_job. Jobs import the frozen code and read the frozen configs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.errors import ClusterError
from core.store.files import remove, write_text
from core.store.folders import Store, SweepDir
from slurm import cluster, environment, limits
from slurm.profile import Profile
from sweep.state import pending
from sweep.state.pending import HIDDEN, Pending
from sweep.submit import array_checks, batch_script, frozen_code, submissions
from sweep.submit.backend import Backend, Key, Ordered, Started
from sweep.submit.checks import Check
from sweep.submit.order import Order, Task

LIMITS = re.compile(r"Submit\w*Limit|job submit limit|Invalid job array specification")
"""Matches sbatch's errors for an array that is too large or exceeds the jobs a user may submit."""


@dataclass
class _Sender:
    """One submission and the arrays it has made so far. arrays: job id -> tasks. cap: the limit
    that left jobs behind, '' if none did."""

    code: Path
    known: limits.Limits
    arrays: dict[str, int] = field(default_factory=dict)
    cap: str = ""

    def send(self, order: Ordered) -> Ordered | None:
        """Submit as many jobs as there is room for. Returns the rest of the order, None if nothing
        is left; sets `cap`."""
        room = max(0, self.known.room - sum(self.arrays.values()))
        fitting, left = order.split(min(room, order.jobs))
        if left.jobs:
            cap = self.known.cap
            self.cap = f"{cap.name} = {cap.most}, {cap.queued} already queued"
        sent = self._arrays(fitting) if fitting.jobs else 0
        return order.split(sent)[1] if sent < order.jobs else None

    def _arrays(self, order: Order) -> int:
        """Submit the jobs in arrays; returns how many jobs Slurm accepted. If sbatch refuses an
        array because of a limit that was not known before, half its size is tried."""
        first, size = 0, max(1, self.known.max_array_size)
        manifest = order.freeze()
        while first < order.jobs:
            numbers = range(first, min(first + size, order.jobs))
            tasks = [order.job(manifest, number, order.jobs) for number in numbers]
            rows = order.span(numbers)
            try:
                job = hand_over(tasks, order.sweep, self.code, manifest, order.profile, **rows)
            except ClusterError as error:
                if not LIMITS.search(str(error)):
                    raise
                self.cap = str(error)
                if len(numbers) == 1:
                    break
                size = len(numbers) // 2
            else:
                self.arrays[job] = len(numbers)
                first = numbers.stop
        return first


class Slurm(Backend):
    """Arrays of a Slurm cluster."""

    queued = True

    def start(self, order: Ordered) -> Started[Ordered]:
        code = frozen_code.snapshot(order.sweep, order.code)
        sender = _Sender(code, batch_script.limits_of(order.profile))
        left = [rest for part in order.parts() if (rest := sender.send(part)) is not None]
        return Started(sender.arrays, left, sender.cap)

    def script(self, order: Order) -> list[str]:
        known = batch_script.limits_of(order.profile)
        return [
            batch_script.text(len(chunk), order.sweep, part.profile, order.code)
            for part in order.parts()
            for chunk in limits.chunks(part.jobs, known)
        ]

    def verdict(self, script: str, profile: Profile) -> str | None:
        if not cluster.available():
            return None
        with tempfile.TemporaryDirectory() as scratch:
            return f"sbatch --test-only: {batch_script.verdict(script, Path(scratch))}"

    def limited(self, profile: Profile, most: int) -> Profile:
        slurm = profile.slurm.model_copy(update={"slurm_array_parallelism": most})
        return profile.model_copy(update={"slurm": slurm})

    def room(self, profile: Profile) -> int:
        return batch_script.limits_of(profile).room

    def states(self, promised: Mapping[Key, Pending]) -> dict[Key, Pending]:
        """One squeue for all jobs, and at most one sacct. If the cluster hides other users' jobs,
        their state is HIDDEN, as they may well be there."""
        jobs = {item.job: item for item in promised.values()}
        found = cluster.jobs(jobs, {item.name for item in jobs.values()})
        known = (None, environment.user())
        foreign = [j for j in jobs if jobs[j].user not in known and found[j].state == "UNKNOWN"]
        if foreign and cluster.hides_jobs():
            for job in foreign:
                hidden = f"a job of {jobs[job].user}, not visible to you"
                found[job] = replace(found[job], state=HIDDEN, reason=hidden)
        return {
            key: replace(item, job=found[item.job].id or item.job, state=found[item.job])
            for key, item in promised.items()
        }

    def stop(self, promised: Iterable[Pending]) -> None:
        # scancel would refuse to end a hidden job, as it is another user's. Such a job stops
        # because of the requests in its runs' folders.
        known = (item for item in promised if not (item.state and item.state.state == HIDDEN))
        cluster.cancel(item.job for item in known if item.job[0].isdigit())

    def release(self, jobs: Iterable[str]) -> None:
        for job in jobs:
            cluster.release(job)

    def checks(self, profile: Profile, store: Store, *, node: bool) -> Iterator[Check]:
        yield from array_checks.of_cluster(profile, store)
        if node:
            yield array_checks.of_node(profile, store)


BACKEND = Slurm()


def hand_over(
    tasks: Sequence[Task],
    sweep: SweepDir,
    code: Path,
    manifest: Path,
    profile: Profile,
    **more: Any,
) -> str:
    """Submit one array and record it; returns its id. more: further fields of the record.

    It is recorded before it is submitted, under a unique name: if the launcher dies before it
    learns the id, squeue still finds the job by that name. Raises ClusterError.
    """
    name = submissions.job_name(sweep)
    about = {
        "name": name,
        "array": None,
        "tasks": len(tasks),
        **more,
        "mem_gb": profile.slurm.mem_gb,
        "code": code.name,
    }
    sender = batch_script.executor(sweep, code, profile, name)
    sender.write(tasks)
    script = sweep.logs / f"{name}_submission.sh"
    write_text(script, sender.text(len(tasks)))
    submissions.record(sweep, manifest, profile, **about)
    try:
        job = cluster.submit(script, name)
    except ClusterError:
        states = cluster.jobs([task for task, _ in pending.tasks(about)], [name])
        if not any(Pending(task, 0, name, states[task]).live for task in states):
            submissions.forget(sweep, name)  # Slurm has answered that there is no such job
            remove(script)
            sender.forget()
        raise
    script.rename(sweep.logs / f"{job}_submission.sh")
    submissions.record(sweep, manifest, profile, **about | {"array": job})
    return job
