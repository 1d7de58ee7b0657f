"""The verb work: workers that need no launch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core.store.folders import Store
from sweep.cli.options import RUN, GridArgument, ProfileOption, Root, TrackingOption, value_of
from sweep.cli.printing import out

verbs = typer.Typer()


@verbs.command(rich_help_panel=RUN)
def work(
    grid: GridArgument,
    slots: Annotated[
        int, typer.Option("--slots", min=1, help="Runs at the same time, one process each.")
    ] = 1,
    idle: Annotated[
        float,
        typer.Option("--idle", min=0, help="Seconds to wait for more runs before exiting."),
    ] = 0.0,
    profile: ProfileOption = "local",
    root: Root = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Runs to select, by fields: backbone=swin dataset=cars,cub."),
    ] = None,
    tracking: TrackingOption = None,
) -> None:
    """Work on what a grid lacks (runs, trials, evaluations) until nothing is left to claim. Start
    as many workers as you like, on any machines that share the root folder."""
    from sweep import claimant

    store = Store.at(root)
    done = claimant.work(
        claimant.Claimant(
            grid=str(Path(grid).absolute()) if Path(grid).is_file() else grid,
            root=str(store.root.absolute()),
            profile=profile,
            tracking=value_of(tracking),
            only=tuple(only or ()),
            idle=idle,
            slots=slots,
        )
    )
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(done.items()) if count)
    out.print(f"nothing left to claim; this worker's share: {counts or 'none'}")
    raise typer.Exit(1 if claimant.has_failed(done) else 0)
