"""Would Slurm accept a launch? Checks its limits, the partition and the batch script that a launch
would submit (`sbatch --test-only`), and what torch sees in such a job."""

from __future__ import annotations

import shlex
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from core.config import ConfigError
from core.errors import ClusterError, counted
from core.store.folders import Store, SweepDir
from slurm import cluster
from slurm.cluster import Partition
from slurm.profile import Profile
from sweep.state import joblog
from sweep.submit import batch_script, checks, frozen_code
from sweep.submit.checks import NO_GPU, PATIENCE_S, Check


def of_cluster(profile: Profile, store: Store) -> Iterator[Check]:
    """Checks that submit nothing."""
    if not cluster.available():
        yield Check("Slurm", "fail", "sbatch, squeue, scontrol or scancel is not on the PATH")
        return
    known = batch_script.limits_of(profile)
    jobs = counted(known.room, "more job")
    room = f"{jobs} may be submitted ({known.cap.name} = {known.cap.most})"
    yield Check(
        "Slurm",
        "ok" if known.known and known.room else "warn",
        f"{room if known.known else 'its limits and queue cannot be read now'}, "
        f"{counted(known.max_array_size, 'task')} per array",
    )
    yield from _partition(profile)
    yield _test_only(profile, store, "sbatch --test-only")
    for backbone in profile.overrides:
        special = profile.for_backbone(backbone)
        yield _test_only(special, store, f"sbatch --test-only, {backbone}")


def _partition(profile: Profile) -> Iterator[Check]:
    try:
        known = cluster.partitions()
    except ClusterError as error:
        yield Check("partition", "fail", str(error))
        return
    default = next((p for p in known if known[p].default), "")
    for wanted in (profile.slurm.slurm_partition or default).split(","):
        yield _one_partition(wanted, known, profile.slurm.timeout_min or 0)


def _one_partition(wanted: str, known: Mapping[str, Partition], minutes: int) -> Check:
    if wanted not in known:
        return Check("partition", "fail", f"no partition '{wanted}', expected {', '.join(known)}")
    found = known[wanted]
    if found.max_time_min is not None and minutes > found.max_time_min:
        detail = f"{wanted} allows {found.max_time_min} min, timeout_min is {minutes}"
        return Check("partition", "fail", detail)
    if not found.up:
        return Check("partition", "warn", f"{wanted} is down")
    return Check("partition", "ok", f"{wanted}, {counted(found.nodes, 'node')}")


def _test_only(profile: Profile, store: Store, name: str) -> Check:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            text = batch_script.text(1, store.sweep("doctor"), profile)
            return Check(name, "ok", batch_script.verdict(text, Path(scratch)))
        except (ClusterError, ConfigError) as error:
            return Check(name, "fail", str(error))


def of_node(profile: Profile, store: Store) -> Check:
    """What torch sees in a job with a launch's batch script, except for its last line. Waits at
    most five minutes; leaves no job and no file behind."""
    name = f"epsweep-doctor-{uuid.uuid4().hex[:8]}"
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".doctor-", dir=store.root, ignore_cleanup_errors=True
        ) as folder:
            return _probe(name, profile, SweepDir(Path(folder)))
    except (ClusterError, ConfigError) as error:
        return Check("torch on a node", "fail", str(error))


def _probe(name: str, profile: Profile, sweep: SweepDir) -> Check:
    sweep.logs.mkdir()
    sender = batch_script.executor(sweep, frozen_code.snapshot(sweep), profile, name)
    script = sweep.logs / "submission.sh"
    script.write_text(sender.text(1, f"{sender.python} -c {shlex.quote(checks.PROBE)}"))
    job = cluster.submit(script, name)
    try:
        end = time.monotonic() + PATIENCE_S
        while not (state := cluster.jobs([job], [name])[job]).over and time.monotonic() < end:
            time.sleep(1)
    finally:
        with suppress(ClusterError):  # most often it has ended already
            cluster.cancel([job])
    log = joblog.path(sweep.logs, job)
    said = log.with_suffix(".out").read_text("utf-8") if log.exists() else ""
    if state.state != "COMPLETED":
        why = joblog.last_line(joblog.tail(log)) or state.reason
        return Check("torch on a node", "fail", f"{state.state}, job {job}: {why}")
    seen = joblog.last_line(said)
    lacking = profile.gpus_per_run and NO_GPU in seen
    asked = f", though the profile asks for {profile.gpus_per_run}" if lacking else ""
    return Check("torch on a node", "warn" if lacking else "ok", f"{seen}{asked}")
