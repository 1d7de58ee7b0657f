"""What the verbs share: arguments and options, the two consoles, loading a grid and its plan.

Imports nothing heavy, so that `sweep --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from core.config import ConfigError
from core.options import Mode
from core.store.folders import Store

if TYPE_CHECKING:
    from slurm.profile import Profile
    from sweep.estimate.cost import Cost
    from sweep.grid import Grid, Run
    from sweep.state.plan import Plan
    from sweep.summary import Published

PREPARE, RUN, LOOK, REPAIR = "Prepare", "Run", "Look", "Repair"
"""Groups of verbs in `sweep --help`."""
WIDE = 160
"""Columns when the output is a file or a pipe, so that tables are not squeezed."""

# No markup: rich would drop `[old]` from the path `/data/[old]`.
_width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
out = Console(width=_width, markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)

GridArgument = Annotated[
    str, typer.Argument(metavar="GRID", help="A grid file, or the name of a shipped grid.")
]
GridArguments = Annotated[
    list[str], typer.Argument(metavar="GRID", help="Grid files, or names of shipped grids.")
]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="Folder for all results [default: $EPSWEEP_ROOT or ./outputs]."),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="Runs to select: backbone=swin dataset=cars,cub state=failed."),
]


class Sort(StrEnum):
    """Orders of `sweep status`, those of sweep.state.plan."""

    name = "name"
    state = "state"
    hours = "hours"


SortOption = Annotated[
    Sort | None,
    typer.Option(
        "--sort", help="Pages by name, by state (failed first) or by hours spent (most first)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class Tracking(StrEnum):
    """How runs are mirrored to W&B."""

    auto = "auto"
    online = "online"
    offline = "offline"
    none = "none"


ProfileOption = Annotated[
    str, typer.Option("--profile", "-p", help="Where to run: a shipped profile or a YAML file.")
]
TrackingOption = Annotated[
    Tracking | None,
    typer.Option(
        "--tracking",
        help="W&B mode [default: the profile's; auto is online if you are logged in].",
    ),
]
Workers = Annotated[
    int | None, typer.Option("--max-parallel", min=1, help="Most runs at the same time.")
]


def manifest(runs: Iterable[Run]) -> list[dict[str, Any]]:
    from sweep.submit.submissions import manifest_rows

    return [*manifest_rows(runs)]


def value_of(tracking: Tracking | None) -> Mode | None:
    return tracking.value if tracking else None


def tuned_grid(grid: str, store: Store) -> Grid:
    """The grid with its tuned hyper-parameters filled in, as far as the store has them."""
    from sweep.grid import load_grid
    from sweep.tune import winners

    return winners.apply(load_grid(grid), store)


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


def print_plan(loaded: Grid, seen: Plan, cost: Cost, published: Published | None = None) -> None:
    from sweep import summary

    out.print(summary.of(loaded, seen, cost, published))


def print_warnings(loaded: Grid) -> None:
    """Print what looks wrong with a grid but does not stop it from running."""
    for line in loaded.warnings:
        err.print(Text(f"warning: {line}", style="yellow"), soft_wrap=True)


def print_lacks(seen: Plan, store: Store, profile: Profile) -> None:
    from sweep import launcher

    try:
        lines = launcher.lacks(seen, store, profile)
    except ConfigError as error:  # a variable of the profile that only the cluster sets
        lines = [*error.lines]
    for line in lines:
        out.print(Text(f"missing: {line}", style="yellow"), soft_wrap=True)


def print_scripts(loaded: Grid, seen: Plan, store: Store, profile: Profile) -> None:
    from sweep.state.plan import LAUNCHABLE
    from sweep.submit import backends
    from sweep.submit.order import Runs

    backend, runs = backends.of(profile.executor), seen.of(LAUNCHABLE)
    order = Runs(store.sweep(loaded.name), store, profile, runs, seen.behind)
    for script in backend.script(order):
        typer.echo(script)
        verdict = backend.verdict(script, profile)
        if verdict:
            typer.echo(f"# {verdict}")


def outcome(final: Plan | None) -> int:
    """Exit code: 1 if a run failed, else 3 if one is not done, else 0. final: None (exit code 0)
    if the runs were queued and not waited for."""
    from sweep.state.plan import State

    if final is None or final.counts[State.DONE] == len(final.statuses):
        return 0
    return 1 if final.counts[State.FAILED] else 3
