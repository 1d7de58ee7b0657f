"""The verb that searches for hyper-parameters: tune."""

from __future__ import annotations

from typing import Annotated

import typer

from core.store.folders import Store
from sweep.cli.options import RUN, GridArgument, Json, Only, ProfileOption, Root, out

verbs = typer.Typer()


@verbs.command(rich_help_panel=RUN)
def tune(
    grid: GridArgument,
    profile: ProfileOption = "local",
    root: Root = None,
    only: Only = None,
    max_parallel: Annotated[
        int | None,
        typer.Option("--max-parallel", min=1, help="Workers [default: on Slurm one per search]."),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only show how far the searches are.")
    ] = False,
    json: Json = False,
) -> None:
    """Search for the hyper-parameters that a grid's `tune:` block asks for; `launch` takes them.
    Repeating it goes on where it stopped (exit code 3 while a search is not through)."""
    from json import dumps

    from sweep import launcher
    from sweep.grid import load_grid
    from sweep.tune import session, table

    loaded, store = load_grid(grid), Store.at(root)
    if status:
        known = session.workers(session.folder(loaded, store))
        seen = session.look(session.searches(loaded, store, only or ()), known)
        workers = [item for item in known if item.live]
    else:
        where = launcher.load_profile(profile, max_parallel=max_parallel)
        seen = session.tune(
            loaded, store, where, only=only or (), workers=max_parallel, console=out
        )
        workers = []
    assert loaded.tune
    if json:
        typer.echo(dumps(table.as_dict(seen, loaded.tune.least, workers), indent=1))
    else:
        out.print(table.tabulate(seen, loaded, workers))
    raise typer.Exit(table.exit_code(seen))
