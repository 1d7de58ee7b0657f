"""`sweep doctor`: would a launch work? Every check is one line.

What to check about the place where runs would execute is up to its backend (`Backend.checks`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Literal, assert_never

from rich.text import Text

from core.config import ConfigError, registry
from core.data import inputs
from core.errors import counted
from core.sheet import Sheet
from core.store.folders import Store
from core.store.tracking import is_online, login_problem
from slurm.profile import Profile
from sweep.grid import Grid
from sweep.inputs import needs
from sweep.submit import backends
from sweep.submit.checks import Check

LOW_DISK_GB = 20
"""A run of a base-size backbone keeps about 1 GB while it trains."""
CLASSES = 2
"""Number of classes of the networks that checkpoints are compared with: any will do, as the head is
always new."""
PROBE_BYTES = 16_000_000


def examine(profile: Profile, store: Store, grid: Grid | None, *, node: bool) -> list[Check]:
    """Every check that applies, in order."""
    checks = [*_profile(profile), *_disk(store), *_tracking(profile)]
    if grid:
        checks += _inputs(grid, store, profile)
    return [*checks, *backends.of(profile.executor).checks(profile, store, node=node)]


def table(checks: list[Check]) -> Sheet:
    """One row per check, for a terminal."""
    shown = Sheet(show_header=False)
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
            problem = f"never used, runs call this backbone '{spelt}'"
        if problem:
            yield Check("profile", "fail", f"overrides.{name}: {problem}")


def _disk(store: Store) -> Iterator[Check]:
    place = next(p for p in (store.root, *store.root.parents) if p.exists())
    if not os.access(place, os.W_OK):
        yield Check("results", "fail", f"{store.root}: no permission to write there")
        return
    try:  # a quota may be used up although the disk has space
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        yield Check("results", "fail", f"{store.root}: cannot write 16 MB there: {error.strerror}")
        return
    free = shutil.disk_usage(place).free / 1e9
    verdict: Literal["ok", "warn"] = "ok" if free >= LOW_DISK_GB else "warn"
    yield Check("results", verdict, f"{store.root}: {free:.0f} GB free")


def _tracking(profile: Profile) -> Iterator[Check]:
    match profile.tracking:
        case "online":
            problem = login_problem()
            yield Check("W&B", "fail" if problem else "ok", problem or "online")
        case "auto" if not is_online("auto"):
            why = login_problem() or "WANDB_MODE"
            yield Check("W&B", "ok", f"offline ({why}); upload: sweep sync")
        case "auto":
            yield Check("W&B", "ok", "online")
        case "offline" | "none":
            yield Check("W&B", "ok", profile.tracking)
        case _:
            assert_never(profile.tracking)


def _inputs(grid: Grid, store: Store, profile: Profile) -> Iterator[Check]:
    evals = ((run.config, item) for run in grid.runs for item in run.evals)
    problems = needs.missing((run.config for run in grid.runs), store, profile, evals)
    for problem in problems:
        yield Check("inputs", "fail", problem)
    for remark in inputs.left_out((run.config for run in grid.runs), store):
        yield Check("inputs", "warn", remark)
    if not problems:
        absent = needs.to_download((run.config for run in grid.runs), profile)
        here = "data is here" if absent else "data and weights are here"
        yield Check("inputs", "ok", f"{here}, {counted(len(grid.runs), 'run')}")
        for name in absent:
            how = f"its first run downloads it, or: sweep weights fetch {name}"
            yield Check("weights", "warn", f"{name} is not in the cache; {how}")
        for problem in needs.misfits([run.config for run in grid.runs], store):
            yield Check("networks", "fail", problem)
        yield from _fit(grid, store)


def _fit(grid: Grid, store: Store) -> Iterator[Check]:
    """Whether each local checkpoint has its backbone's tensors, by name and shape; otherwise a run
    would fail on its node. Builds every such network once, as a run does."""
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
        yield Check("weights", "ok", f"{checkpoints} compared: the tensors fit their backbones")
