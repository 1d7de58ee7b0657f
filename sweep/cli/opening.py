"""What verbs open: a grid with its tuned hyper-parameters, the plan of its runs, their cost."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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

    with _kept():
        return winners.apply(load_grid(grid), store)


def look(loaded: Grid, store: Store, only: list[str] | None) -> Plan:
    from sweep import launcher

    with _kept():
        return launcher.look(loaded, store, only or ())


@contextmanager
def _kept() -> Iterator[None]:
    """Context manager: keep the garbage collector from scanning what is made here, such as 10,000
    runs, now and later: all of it is needed until the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def opened(grid: str, root: Path | None, only: list[str] | None) -> tuple[Store, Grid, Plan]:
    """The store, the grid, and the plan of the runs that are asked for."""
    store = Store.at(root)
    loaded = tuned_grid(grid, store)
    return store, loaded, look(loaded, store, only)


def cost_of(loaded: Grid, store: Store, profile: Profile) -> Cost:
    from sweep.estimate import cost

    named = {run.config.backbone for run in loaded.runs}
    return cost.of(profile, store, loaded.about.get("hardware"), named)
