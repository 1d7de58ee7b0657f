"""Arguments and options that verbs share. Imports nothing heavy, so that `sweep --help` answers at
once.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from core.options import Mode

PREPARE, RUN, LOOK, REPAIR = "Prepare", "Run", "Look", "Repair"
"""Groups of verbs in `sweep --help`."""
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
    int | None, typer.Option("--max-parallel", min=1, help="Maximum number of runs at a time.")
]


def value_of(tracking: Tracking | None) -> Mode | None:
    return tracking.value if tracking else None
