"""The verbs that choose settings of runs: tune, suggest-schedule."""

from __future__ import annotations

from typing import Annotated

import typer

from core.config import ConfigError
from core.store.folders import Store
from sweep.cli.opening import opened
from sweep.cli.options import LOOK, RUN, GridArgument, Json, Only, ProfileOption, Root
from sweep.cli.printing import out, print_json

verbs = typer.Typer()


@verbs.command(rich_help_panel=RUN)
def tune(
    grid: GridArgument,
    profile: ProfileOption = "local",
    root: Root = None,
    only: Only = None,
    max_parallel: Annotated[
        int | None,
        typer.Option("--max-parallel", min=1, help="Workers [default on Slurm: one per search]."),
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only show the progress of the searches.")
    ] = False,
    json: Json = False,
) -> None:
    """Search for the hyper-parameters that a grid's `tune:` block asks for; `launch` uses them.
    Repeat the command to resume. The exit code is 3 while a search is unfinished."""
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
        print_json(table.as_dict(seen, loaded.tune.least, workers))
    else:
        out.print(table.tabulate(seen, loaded, workers))
    raise typer.Exit(table.exit_code(seen))


@verbs.command("suggest-schedule", rich_help_panel=LOOK)
def suggest_schedule(
    grid: GridArgument, root: Root = None, only: Only = None, json: Json = False
) -> None:
    """Suggest T1 and T2 for each backbone, dataset and eps_g from finished standard and fix runs,
    and compare them with what was measured. The exit code is 3 while a cell has no suggestion."""
    from core.config.evaluation import AtStrengths
    from sweep import suggestion

    store, _, seen = opened(grid, root, only)
    runs = seen.runs
    evals = dict.fromkeys(one for run in runs for one in run.evals if isinstance(one, AtStrengths))
    found = suggestion.suggest([run.config for run in runs], store, list(evals))
    if not found:
        raise ConfigError(f"{grid}: no run trains adversarially, so no schedule can be suggested")
    if json:
        print_json([one.to_dict() for one in found])
    else:
        out.print(suggestion.table(found), soft_wrap=True)
        if one_pair := suggestion.overall(found):
            out.print(one_pair, soft_wrap=True)
    raise typer.Exit(3 if any(one.problem for one in found) else 0)
