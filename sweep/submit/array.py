"""Submitting to Slurm: one sbatch array per chunk of runs, through submitit. Returns at once.

Array task i of a chunk runs rows [first + i k, first + (i + 1) k) of the submission's manifest,
k = runs_per_job. Jobs import the frozen code and read the frozen configs.
"""

from __future__ import annotations

import re
import shlex
import shutil
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit

from core.config import ConfigError
from core.errors import ClusterError
from core.store.folders import Store, SweepDir, remove, write_text
from slurm import cluster, limits
from slurm.profile import Profile
from sweep.grid import Run
from sweep.state import joblog, pending, repair
from sweep.state.pending import Pending
from sweep.submit import bundle, frozen_code, submissions
from sweep.worker import custody
from sweep.worker.job import RunJob

LIMITS = re.compile(r"Submit\w*Limit|job submit limit|Invalid job array specification")
"""How sbatch says that an array is too large, or one job more than the user may submit."""
Behind = Mapping[str, Collection[str]]


@dataclass(frozen=True)
class Sent:
    """What one launch handed to Slurm: arrays as {job id of the array: tasks}, and the rest."""

    arrays: dict[str, int]
    runs: int
    left: list[Run]
    cap: str
    """The limit that left runs behind, '' where none did."""


@dataclass
class _Sender:
    """One submission: the arrays made of it so far."""

    sweep: SweepDir
    store: Store
    code: Path
    known: limits.Limits
    arrays: dict[str, int] = field(default_factory=dict)
    left: list[Run] = field(default_factory=list)
    cap: str = ""

    @property
    def room(self) -> int:
        return self.known.room - sum(self.arrays.values())

    def send(self, profile: Profile, runs: Sequence[Run]) -> None:
        """Submit as many as there is room for; those left over go to `left`, and why to `cap`."""
        fitting = runs[: max(0, self.room) * profile.runs_per_job]
        if len(fitting) < len(runs):
            cap = self.known.cap
            self.cap = f"{cap.name} = {cap.most}, {cap.queued} queued before"
        sent = self._arrays(profile, fitting) if fitting else 0
        self.left += runs[sent:]

    def _arrays(self, profile: Profile, runs: Sequence[Run]) -> int:
        """Submit the runs in arrays; returns how many were taken. A limit that nobody told of
        before is met by ever smaller arrays."""
        per, first = profile.runs_per_job, 0
        size = max(1, self.known.max_array_size) * per
        manifest = submissions.freeze_runs(runs, self.sweep, self.store)
        while first < len(runs):
            rows = range(first, min(first + size, len(runs)))
            try:
                self._array(profile, manifest, rows)
                first = rows.stop
            except ClusterError as error:
                if not LIMITS.search(str(error)):
                    raise
                self.cap = str(error)
                if len(rows) <= per:
                    break
                size = max(1, len(rows) // per // 2) * per
        return first

    def _array(self, profile: Profile, manifest: Path, rows: range) -> None:
        """One sbatch."""
        per = profile.runs_per_job
        tasks = [
            _job(manifest, first, min(per, rows.stop - first), self.sweep, self.store, profile)
            for first in range(rows.start, rows.stop, per)
        ]
        about = {"first": rows.start, "end": rows.stop, "per": per}
        job = hand_over(tasks, self.sweep, self.code, manifest, profile, **about)
        self.arrays[job] = len(tasks)


def hand_over(
    tasks: Sequence[bundle.Task],
    sweep: SweepDir,
    code: Path,
    manifest: Path,
    profile: Profile,
    **more: Any,
) -> str:
    """Submit one array and put it on record with what `more` tells; returns its id.

    What it is about to do is recorded first, under a name that no other job has: if the launcher
    dies before it learns the id, squeue still knows the job by that name. Raises ClusterError.
    """
    name = f"epsweep-{sweep.path.name}-{uuid.uuid4().hex[:8]}"
    about = {
        "name": name,
        "array": None,
        "tasks": len(tasks),
        **more,
        "mem_gb": profile.slurm.mem_gb,
        "code": code.name,
    }
    sender = executor(sweep, code, profile, name)
    sender.write(tasks)
    script = sweep.logs / f"{name}_submission.sh"
    write_text(script, sender.text(len(tasks)))
    submissions.record(sweep, manifest, profile, **about)
    try:
        job = cluster.submit(script, name)
    except ClusterError:
        states = cluster.jobs([task for task, _ in pending.tasks(about)], [name])
        if not any(Pending(task, 0, name, states[task]).live for task in states):
            submissions.forget(sweep, name)  # Slurm is sure that no such job will run
            remove(script)
            remove(bundle.file(sweep.logs, name))
        raise
    script.rename(sweep.logs / f"{job}_submission.sh")
    submissions.record(sweep, manifest, profile, **about | {"array": job})
    return job


def send(
    runs: Sequence[Run], sweep: SweepDir, store: Store, profile: Profile, behind: Behind
) -> Sent:
    """Submit as many of the runs as the cluster's limits allow, in order. behind: by run id, the
    jobs that have to be over before Slurm starts one for the run.

    Raises ClusterError where sbatch refuses; arrays sent before that are recorded.
    """
    frozen = frozen_code.snapshot(sweep, _own_code(runs))
    sender = _Sender(sweep, store, frozen, _limits(profile))
    for special, group in _by_profile(runs, store, profile, behind):
        sender.send(special, group)
    return Sent(sender.arrays, len(runs) - len(sender.left), sender.left, sender.cap)


def room(profile: Profile) -> int:
    """How many more jobs the cluster takes from us now, as far as it says."""
    return _limits(profile).room


def fits(tasks: int, profile: Profile) -> int:
    """How many of the tasks of one array the cluster takes from us now."""
    known = _limits(profile)
    return min(tasks, known.room, max(1, known.max_array_size))


def _limits(profile: Profile) -> limits.Limits:
    return limits.read(profile.slurm.slurm_account, profile.slurm.slurm_qos or "normal")


def _by_profile(
    runs: Sequence[Run], store: Store, profile: Profile, behind: Behind
) -> list[tuple[Profile, list[Run]]]:
    """Runs grouped by what they are submitted with: the overrides of their backbone, more memory
    where a retry asked for it, and whether they have to wait for others' jobs."""
    groups: dict[tuple[str, float | None, bool], list[Run]] = {}
    for run in runs:
        backbone = run.config.backbone if run.config.backbone in profile.overrides else ""
        key = (backbone, repair.read(store.run(run.id)).mem_gb, run.id in behind)
        groups.setdefault(key, []).append(run)
    found = []
    for (backbone, memory, waits), members in groups.items():
        special = profile.for_backbone(backbone)
        changed: dict[str, Any] = {}
        if memory:
            changed["mem_gb"] = max(memory, special.slurm.mem_gb or 0)
        if waits:
            jobs = {job for run in members for job in behind[run.id]}
            changed["slurm_additional_parameters"] = _after(special, jobs)
        slurm = special.slurm.model_copy(update=changed)
        found.append((special.model_copy(update={"slurm": slurm}), members))
    return found


def _after(profile: Profile, jobs: Collection[str]) -> dict[str, Any]:
    """The profile's further options, and that no task begins before these jobs are over."""
    more = profile.slurm.slurm_additional_parameters or {}
    own = [str(more["dependency"])] if "dependency" in more else []
    return {**more, "dependency": ",".join([*own, f"afterany:{':'.join(sorted(jobs))}"])}


def _job(
    manifest: Path, first: int, count: int, sweep: SweepDir, store: Store, profile: Profile
) -> RunJob:
    together = profile.packing == "parallel"
    return RunJob(
        root=str(store.root),
        sweep=sweep.path.name,
        manifest=str(manifest),
        first=first,
        count=count,
        tracking=profile.tracking,
        threads=profile.slurm.cpus_per_task,
        gpus=profile.gpus_per_run / (count if together else 1),
        max_lost=profile.max_requeues + 3,
        together=together,
        alone=True,
        staging=profile.staging,
        compile=profile.compile,
    )


def executor(sweep: SweepDir, code: Path, profile: Profile, name: str) -> bundle.Executor:
    """submitit's Slurm executor with everything the profile says; its logs go to the sweep. Raises
    ClusterError on a machine without Slurm, ConfigError for a folder that Slurm cannot log to."""
    if not (cluster.available() and shutil.which("srun")):
        raise ClusterError(f"profile {profile.name}: Slurm's commands are not on the PATH here")
    if problem := cluster.several():
        raise ConfigError(problem)
    if odd := re.search(r"[%\\\x00-\x1f]", str(sweep.logs)):
        raise ConfigError(
            f"{sweep.path}: a folder of results on Slurm may not have {odd[0]!r} in its path: "
            "Slurm reads names of log files as patterns"
        )
    made = submitit.AutoExecutor(sweep.logs, **profile.executor_options())
    plain: Any = made._executor
    made._executor = bundle.Executor(plain.folder, plain.max_num_timeout, python=plain.python)
    exports = {
        "PYTHONSAFEPATH": "1",  # else the folder of the launch comes first, frozen or not
        "PYTHONDONTWRITEBYTECODE": "1",  # a cache in the frozen code would be open to a group
        "SLURM_EXPORT_ENV": "ALL",  # srun hands on what is set here, whatever sbatch did
        "EPSWEEP_HEARTBEAT_S": f"{profile.heartbeat_s:g}",
        "EPSWEEP_STALE_S": f"{profile.stale_s:g}",
    }
    start = f'echo "{joblog.START} ${{SLURM_RESTART_COUNT:-0}} on $SLURMD_NODENAME" >&2'
    ours = [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
    # Last, and first on the path: nothing that a profile or a site sets leads around the frozen
    # code, and packages that a site gives by PYTHONPATH are found behind it.
    path = f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}"
    parameters = profile.parameters()
    ours += [*custody.guard(code), path]
    parameters["slurm_setup"] = [start, *parameters["slurm_setup"], *ours]
    made.update_parameters(slurm_job_name=name, **parameters)
    sender: bundle.Executor = made._executor
    if not profile.slurm.slurm_wckey:
        sender.parameters["wckey"] = None  # submitit's own default may be none of the cluster's
    return sender


def scripts(
    runs: Sequence[Run], sweep: SweepDir, store: Store, profile: Profile, behind: Behind
) -> list[str]:
    """The exact batch script of each array that `send` would submit, but for the unique end of its
    job's name."""
    known = _limits(profile)
    texts = []
    for special, group in _by_profile(runs, store, profile, behind):
        tasks = -(-len(group) // special.runs_per_job)
        for chunk in limits.chunks(tasks, known):
            texts.append(text(len(chunk), sweep, special, _own_code(runs)))
    return texts


def _own_code(runs: Sequence[Run]) -> frozen_code.Code:
    return {pair for run in runs for pair in run.code}


def text(tasks: int, sweep: SweepDir, profile: Profile, code: frozen_code.Code = ()) -> str:
    """The batch script of one array: submitit's own rendering, as it makes it before sbatch. code:
    the own code that its tasks need."""
    frozen = frozen_code.place(sweep, code)
    return executor(sweep, frozen, profile, f"epsweep-{sweep.path.name}").text(tasks)


def verdict(script: str, scratch: Path) -> str:
    """What Slurm says of a batch script without submitting it. Raises ClusterError if it would
    be refused."""
    path = scratch / "dry-run.sh"
    path.write_text(script)
    return cluster.test_only(path)
