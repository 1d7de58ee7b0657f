"""Submitting to Slurm: one sbatch array per chunk of runs, through submitit. Returns at once.

Array task i of a chunk runs rows [first + i k, first + (i + 1) k) of the submission's manifest,
k = runs_per_job. Jobs import the frozen code and read the frozen configs.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import submitit

from core.rundir import Store, SweepDir
from slurm import cluster, limits
from slurm.command import ClusterError
from slurm.profile import Profile
from sweep import freeze, submit
from sweep.grid import Run
from sweep.job import RunJob


@dataclass(frozen=True)
class Sent:
    """What one launch handed to Slurm: arrays as {job id of the array: tasks}, and the rest."""

    arrays: dict[str, int]
    runs: int
    left: int
    cap: str
    """The limit that left runs behind, '' where none did."""


def send(runs: Sequence[Run], sweep: SweepDir, store: Store, profile: Profile) -> Sent:
    """Submit as many of the runs as the cluster's limits allow, in order.

    Raises ClusterError where sbatch refuses; arrays sent before that are recorded.
    """
    code = freeze.snapshot(sweep)
    known = limits.read(profile.slurm.slurm_account, profile.slurm.slurm_qos or "normal")
    room, arrays, sent = known.room, dict[str, int](), 0
    for backbone_profile, group in _by_profile(runs, profile):
        k = backbone_profile.runs_per_job
        fitting = group[: room * k]
        if not fitting:
            break
        manifest = submit.freeze_runs(fitting, sweep, store)
        tasks = [
            _job(manifest, first, min(k, len(fitting) - first), sweep, store, backbone_profile)
            for first in range(0, len(fitting), k)
        ]
        for chunk in limits.chunks(len(tasks), known):
            ids = _sbatch([tasks[i] for i in chunk], sweep, code, backbone_profile)
            jobs = {
                job: [tasks[i].first, tasks[i].count] for job, i in zip(ids, chunk, strict=True)
            }
            submit.record(sweep, manifest, backbone_profile, code=code.name, jobs=jobs)
            arrays[ids[0].partition("_")[0]] = len(ids)
        room -= len(tasks)
        sent += len(fitting)
    left = len(runs) - sent
    cap = f"{known.cap.name} = {known.cap.most}, {known.cap.queued} queued before" if left else ""
    return Sent(arrays, sent, left, cap)


def _by_profile(runs: Sequence[Run], profile: Profile) -> list[tuple[Profile, list[Run]]]:
    """Runs grouped by the profile their backbone gets; one group where there are no overrides."""
    special = [run for run in runs if run.config.backbone in profile.overrides]
    plain = [run for run in runs if run.config.backbone not in profile.overrides]
    groups = [(profile, plain)] if plain else []
    special.sort(key=lambda run: run.config.backbone)
    for backbone, members in groupby(special, key=lambda run: run.config.backbone):
        groups.append((profile.for_backbone(backbone), list(members)))
    return groups


def _job(
    manifest: Path, first: int, count: int, sweep: SweepDir, store: Store, profile: Profile
) -> RunJob:
    return RunJob(
        root=str(store.root),
        sweep=sweep.path.name,
        manifest=str(manifest),
        first=first,
        count=count,
        tracking=profile.tracking,
        threads=profile.slurm.cpus_per_task,
        max_attempts=profile.max_requeues + 3,
        together=profile.packing == "parallel",
        staging=profile.staging,
    )


def executor(sweep: SweepDir, code: Path, profile: Profile) -> submitit.AutoExecutor:
    """submitit's Slurm executor with everything the profile says; its logs go to the sweep."""
    made = submitit.AutoExecutor(sweep.logs, **profile.executor_options())
    parameters = profile.parameters()
    exports = {
        "PYTHONPATH": str(code),
        "EPSWEEP_HEARTBEAT_S": f"{profile.heartbeat_s:g}",
        "EPSWEEP_STALE_S": f"{profile.stale_s:g}",
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in exports.items()]
    parameters["slurm_setup"] = [*lines, *parameters["slurm_setup"]]
    made.update_parameters(slurm_job_name=f"epsweep-{sweep.path.name}", **parameters)
    return made


def _sbatch(tasks: list[RunJob], sweep: SweepDir, code: Path, profile: Profile) -> list[str]:
    try:
        sender = executor(sweep, code, profile)
        with sender.batch():
            jobs = [sender.submit(task) for task in tasks]
    except submitit.core.utils.FailedJobError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ClusterError(f"sbatch refused: {reason}") from None
    return [job.job_id for job in jobs]


def script(runs: Sequence[Run], sweep: SweepDir, profile: Profile) -> str:
    """The exact batch script of each array that `send` would submit."""
    known = limits.read(profile.slurm.slurm_account, profile.slurm.slurm_qos or "normal")
    code = sweep.path / "code" / freeze.fingerprint()
    texts = []
    for special, group in _by_profile(runs, profile):
        tasks = -(-len(group) // special.runs_per_job)
        for chunk in limits.chunks(tasks, known):
            texts.append(_text(len(chunk), sweep, code, special))
    return "\n".join(texts)


def _text(tasks: int, sweep: SweepDir, code: Path, profile: Profile) -> str:
    """submitit's own rendering, which it makes just before it calls sbatch."""
    inner: Any = executor(sweep, code, profile)._executor
    if tasks > 1:
        inner.parameters["map_count"] = tasks
    text: str = inner._make_submission_file_text(inner._submitit_command_str, "dry-run")
    return text


def verdict(text: str, scratch: Path) -> str:
    """What Slurm says of a batch script without submitting it. Raises ClusterError if it would
    be refused."""
    path = scratch / "dry-run.sh"
    path.write_text(text)
    return cluster.test_only(path)
