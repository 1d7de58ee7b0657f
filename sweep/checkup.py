"""`sweep doctor`: would a launch work? Every check is one line; nothing is submitted for good.

On Slurm it asks the cluster about partition, limits and the very batch script a launch would send
(`sbatch --test-only`); with `--node`, such a job tells what torch sees on a compute node.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.text import Text

from core.config import ConfigError, registry
from core.data import inputs
from core.errors import ClusterError, counted
from core.sheet import Sheet
from core.store.folders import Store, SweepDir
from core.store.tracking import is_online, login_problem
from slurm import cluster, limits
from slurm.cluster import Partition
from slurm.command import ask
from slurm.profile import Profile
from sweep.grid import Grid
from sweep.inputs import needs
from sweep.state import joblog
from sweep.submit import array, frozen_code
from sweep.submit.plugin import Plugin

LOW_DISK_GB = 20
"""A run of a base-size backbone keeps about 1 GB while it trains."""
CLASSES = 2
"""Of the networks that checkpoints are compared with; their heads are new in any case."""
PROBE_BYTES = 16_000_000
PATIENCE_S = 300.0
NO_GPU = "no GPU"
PROBE = (
    "import torch; c = torch.cuda; n = range(c.device_count()); "
    f"print(torch.__version__, [c.get_device_name(i) for i in n] or '{NO_GPU}')"
)


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    verdict: Literal["ok", "warn", "fail"]
    detail: str


def examine(profile: Profile, store: Store, grid: Grid | None, *, node: bool) -> list[Check]:
    """Every check that applies, in order."""
    checks = [*_profile(profile), *_disk(store), *_tracking(profile)]
    if grid:
        checks += _inputs(grid, store, profile)
    if profile.executor == "slurm":
        checks += _slurm(profile, store)
        if node:
            checks.append(_node(profile, store))
    elif profile.remote:
        checks.append(_executor(profile))
    else:
        checks.append(_torch_here())
    return checks


def table(checks: list[Check]) -> Sheet:
    """For a terminal."""
    shown = Sheet(box=None, pad_edge=False, show_header=False)
    style = {"ok": "green", "warn": "yellow", "fail": "red"}
    for check in checks:
        shown.add_row(Text(check.verdict, style=style[check.verdict]), check.name, check.detail)
    return shown


def _profile(profile: Profile) -> Iterator[Check]:
    yield Check("profile", "ok", f"{profile.name}: {profile.about}")
    for name in profile.overrides:
        spelt = registry.canonical_backbone(name)
        problem = registry.backbone_problem(name)
        if spelt != name:
            problem = f"runs call this backbone '{spelt}'"
        if problem:
            yield Check("profile", "fail", f"overrides.{name}: {problem}")


def _disk(store: Store) -> Iterator[Check]:
    place = next(p for p in (store.root, *store.root.parents) if p.exists())
    if not os.access(place, os.W_OK):
        yield Check("results", "fail", f"{store.root}: no permission to write there")
        return
    try:  # free space says nothing of a quota
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        yield Check("results", "fail", f"{store.root}: cannot write 16 MB there: {error.strerror}")
        return
    free = shutil.disk_usage(place).free / 1e9
    verdict: Literal["ok", "warn"] = "ok" if free >= LOW_DISK_GB else "warn"
    yield Check("results", verdict, f"{store.root}: {free:.0f} GB free")


def _tracking(profile: Profile) -> Iterator[Check]:
    wanted = profile.tracking
    problem = login_problem() if wanted in ("online", "auto") else None
    if wanted == "online":
        yield Check("W&B", "fail" if problem else "ok", problem or "online")
    elif wanted == "auto" and not is_online("auto"):
        yield Check("W&B", "ok", f"offline ({problem or 'WANDB_MODE'}); upload: sweep sync")
    else:
        yield Check("W&B", "ok", "online" if wanted == "auto" else wanted)


def _inputs(grid: Grid, store: Store, profile: Profile) -> Iterator[Check]:
    evals = ((run.config, item) for run in grid.runs for item in run.evals)
    problems = needs.missing((run.config for run in grid.runs), store, profile, evals)
    for problem in problems:
        yield Check("inputs", "fail", problem)
    for remark in inputs.left_out((run.config for run in grid.runs), store):
        yield Check("inputs", "warn", remark)
    if not problems:
        yield Check("inputs", "ok", f"data and weights are here, {counted(len(grid.runs), 'run')}")
        for problem in needs.misfits([run.config for run in grid.runs], store):
            yield Check("networks", "fail", problem)
        yield from _fit(grid, store)


def _fit(grid: Grid, store: Store) -> Iterator[Check]:
    """Whether the tensors of each local checkpoint are those of its backbone, by names and shapes:
    a run would find out on its node. Builds every such network once, as a run does."""
    configs = (run.config for run in grid.runs if inputs.local_weights(run.config))
    pairs = {(config.backbone, config.weights, config.image_size): config for config in configs}
    if not pairs:
        return
    from core.model import network  # imports torch

    wrong = 0
    for config in pairs.values():
        try:
            network.build(config, CLASSES, store)
        except ConfigError as error:
            wrong += 1
            yield Check("weights", "fail", error.lines[0])
    if not wrong:
        checkpoints = counted(len(pairs), "local checkpoint")
        yield Check("weights", "ok", f"{checkpoints} compared: the tensors are their backbones'")


def _slurm(profile: Profile, store: Store) -> Iterator[Check]:
    if not cluster.available():
        yield Check("Slurm", "fail", "sbatch, squeue, scontrol or scancel is not on the PATH")
        return
    known = limits.read(profile.slurm.slurm_account, profile.slurm.slurm_qos or "normal")
    jobs = counted(known.room, "more job")
    room = f"{jobs} may be submitted ({known.cap.name} = {known.cap.most})"
    yield Check(
        "Slurm",
        "ok" if known.known and known.room else "warn",
        f"{room if known.known else 'its limits and the queue cannot be read now'}, "
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
        return Check("partition", "fail", f"'{wanted}' is none of {', '.join(known)}")
    found = known[wanted]
    if found.max_time_min is not None and minutes > found.max_time_min:
        detail = f"{wanted} allows {found.max_time_min} min, timeout_min is {minutes}"
        return Check("partition", "fail", detail)
    if not found.up:
        return Check("partition", "warn", f"{wanted} is down")
    return Check("partition", "ok", f"{wanted}, {counted(found.nodes, 'node')}")


def _executor(profile: Profile) -> Check:
    """Whether a plug-in of submitit can be used here and takes the profile's parameters."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            Plugin(profile.executor).made(SweepDir(Path(folder)), profile, "epsweep-doctor")
        except (ClusterError, ConfigError) as error:
            return Check("executor", "fail", str(error))
    return Check("executor", "ok", f"{profile.executor} takes the parameters")


def _test_only(profile: Profile, store: Store, name: str) -> Check:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            text = array.text(1, store.sweep("doctor"), profile)
            return Check(name, "ok", array.verdict(text, Path(scratch)))
        except (ClusterError, ConfigError) as error:
            return Check(name, "fail", str(error))


def _node(profile: Profile, store: Store) -> Check:
    """What torch sees in a job like those of a launch: the same batch script but for its last line.
    Waited for at most five minutes; nothing of it stays."""
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
    sender = array.executor(sweep, frozen_code.snapshot(sweep), profile, name)
    script = sweep.logs / "submission.sh"
    script.write_text(sender.text(1, f"{sender.python} -c {shlex.quote(PROBE)}"))
    job = cluster.submit(script, name)
    try:
        end = time.monotonic() + PATIENCE_S
        while not (state := cluster.jobs([job], [name])[job]).over and time.monotonic() < end:
            time.sleep(1)
    finally:
        with suppress(ClusterError):  # it is over
            cluster.cancel([job])
    log = joblog.path(sweep.logs, job)
    said = log.with_suffix(".out").read_text("utf-8") if log.exists() else ""
    if state.state != "COMPLETED":
        why = joblog.last_line(joblog.tail(log)) or state.reason
        return Check("torch on a node", "fail", f"{state.state}, job {job}: {why}")
    seen = joblog.last_line(said)
    lacking = profile.gpus_per_run and NO_GPU in seen
    asked = f", though {profile.gpus_per_run} asked for" if lacking else ""
    return Check("torch on a node", "warn" if lacking else "ok", f"{seen}{asked}")


def _torch_here() -> Check:
    answer = ask(sys.executable, "-P", "-c", PROBE, timeout_s=PATIENCE_S)
    if not answer.ok:
        return Check("torch here", "fail", answer.error.rpartition("; ")[2] or "no answer")
    return Check("torch here", "ok", answer.text.strip())
