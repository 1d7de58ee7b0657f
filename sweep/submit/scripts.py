"""What a launch would hand over, word for word, without handing it over."""

from __future__ import annotations

import tempfile
from pathlib import Path

from core.store.folders import Store
from slurm import cluster
from slurm.profile import Profile
from sweep.grid import Grid
from sweep.state.plan import LAUNCHABLE, Plan
from sweep.submit import array, local


def of(grid: Grid, seen: Plan, store: Store, profile: Profile) -> list[str]:
    """The exact commands or batch scripts that `launch` would hand over."""
    runs, sweep = seen.of(LAUNCHABLE), store.sweep(grid.name)
    if profile.executor != "slurm":
        return [local.script(runs, sweep, profile)]
    return array.scripts(runs, sweep, store, profile, seen.behind)


def verdict(script: str, profile: Profile) -> str | None:
    """What Slurm says of a batch script, None where there is no Slurm. Raises ClusterError where
    it would be refused."""
    if profile.executor != "slurm" or not cluster.available():
        return None
    with tempfile.TemporaryDirectory() as scratch:
        return f"sbatch --test-only: {array.verdict(script, Path(scratch))}"
