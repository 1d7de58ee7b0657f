"""What verbs open: a grid with its tuned hyper-parameters, the plan of its runs, their cost."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.store.folders import Store

if TYPE_CHECKING:
    from slurm.profile import Profile
    from sweep.estimate.cost import Cost
    from sweep.grid import Grid, Run
    from sweep.state.plan import Plan


def manifest(runs: Iterable[Run]) -> list[dict[str, Any]]:
    from sweep.submit.submissions import manifest_rows

    return [*manifest_rows(runs)]


def tuned_grid(grid: str, store: Store) -> Grid:
    """The grid with its tuned hyper-parameters filled in, as far as the store has them."""
    from sweep.grid import load_grid
    from sweep.tune import winners

    loaded = winners.apply(load_grid(grid), store)
    gc.freeze()  # runs live until the end: the garbage collector need not scan them
    return loaded


def look(loaded: Grid, store: Store, only: list[str] | None) -> Plan:
    from sweep import launcher

    return launcher.look(loaded, store, only or ())


def opened(grid: str, root: Path | None, only: list[str] | None) -> tuple[Store, Grid, Plan]:
    """The store, the grid, and the plan of the runs that are asked for."""
    store = Store.at(root)
    loaded = tuned_grid(grid, store)
    return store, loaded, look(loaded, store, only)


def cost_of(loaded: Grid, store: Store, profile: Profile) -> Cost:
    from sweep.estimate import cost

    return cost.of(profile, store, loaded.about.get("hardware"))
