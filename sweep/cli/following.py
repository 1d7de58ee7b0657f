"""The verbs on what was launched: status, logs, cancel, retry."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from core.config import ConfigError
from core.data.digests import Known
from core.errors import counted
from core.store.folders import Store
from sweep.cli.opening import cost_of, look, opened, tuned_grid
from sweep.cli.options import (
    LOOK,
    REPAIR,
    GridArgument,
    Json,
    Only,
    ProfileOption,
    Root,
    Sort,
    SortOption,
    TrackingOption,
    Workers,
    value_of,
)
from sweep.cli.printing import out

if TYPE_CHECKING:
    from sweep.state.plan import Plan

verbs = typer.Typer()


@verbs.command(rich_help_panel=LOOK)
def status(
    grid: GridArgument,
    root: Root = None,
    only: Only = None,
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until interrupted.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Show every run, in a pager if on a terminal.")
    ] = False,
    page: Annotated[
        int | None, typer.Option("--page", min=1, help="Show the Nth page of the runs.")
    ] = None,
    sort: SortOption = None,
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Name what went wrong in runs, from their curves.")
    ] = False,
) -> None:
    """Show where every run of a grid stands, and why the failed ones failed."""
    from sweep import budget, launcher, summary
    from sweep.state import breaker, diagnosis, display
    from sweep.state.plan import as_json
    from sweep.submit import watcher
    from sweep.tune import winners

    store = Store.at(root)
    if page and (every or watch or json):
        raise ConfigError("--page: does not go with --all, --watch or --json, which show every run")
    if sort and (watch or json):
        raise ConfigError("--sort: does not go with --watch or --json, which keep the grid's order")
    loaded = tuned_grid(grid, store)
    if watch:
        known = Known(store)

        def again(before: Plan) -> Plan:
            return launcher.look(loaded, store, only or (), known=known, before=before)

        watcher.follow(again, out)
        return
    seen = look(loaded, store, only)
    found = diagnosis.diagnose(seen, store) if diagnose else {}
    cost = cost_of(loaded, store, launcher.load_profile("local"))
    if json:
        told = budget.hours(seen, cost)._asdict()
        more = winners.as_dict(loaded)
        if diagnose:
            more["diagnosis"] = diagnosis.as_dict(found)
        sys.stdout.writelines(as_json(seen, name=loaded.name, hours=told, **more))
    else:
        # Without a profile, how many runs go at once is unknown: no wall time is shown.
        out.print(summary.of(loaded, seen, replace(cost, at_once=None)))
        with out.pager() if every and out.is_terminal else nullcontext():
            most = len(seen.statuses) if every else display.ROWS
            listed, first = (seen.ordered(sort), page or 1) if sort else (seen, page)
            spent = sort is Sort.hours
            out.print(display.table(listed, footer=False, most=most, page=first, spent=spent))
        for line in diagnosis.lines(found) if diagnose else ():
            out.print(line, soft_wrap=True)
        held = breaker.tripped(store.sweep(loaded.name))
        if held:
            out.print(Text(str(held), style="red"), soft_wrap=True)


@verbs.command(rich_help_panel=LOOK)
def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run id or the start of one.")],
    root: Root = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing as the log grows.")
    ] = False,
) -> None:
    """Print a run's log: every epoch, every evaluation and, if it failed, the traceback."""
    from sweep.state import run_logs

    store = Store.at(root)
    folder = run_logs.find(store, run)
    for piece in run_logs.read(store, folder, follow=follow):
        sys.stdout.write(piece)
        sys.stdout.flush()


@verbs.command(rich_help_panel=REPAIR)
def cancel(grid: GridArgument, root: Root = None, only: Only = None) -> None:
    """Stop pending and running runs. They keep their checkpoints, and retry resumes them."""
    from sweep.submit import cancellation
    from sweep.tune import session

    store, loaded, seen = opened(grid, root, only)
    runs = cancellation.cancel(seen, store)
    workers = session.stop(loaded, store)
    if workers:
        out.print(f"{counted(workers, 'worker')} of its searches asked to stop")
    if runs or not workers:
        stopped = f"{counted(len(runs), 'run')} asked to stop"
        out.print(stopped if runs else "nothing is pending or running")


@verbs.command(rich_help_panel=REPAIR)
def retry(
    grid: GridArgument,
    profile: ProfileOption = "local",
    root: Root = None,
    only: Only = None,
    failed: Annotated[
        str | None, typer.Option("--failed", help="Only this class of failure: oom, diverged, ...")
    ] = None,
    tracking: TrackingOption = None,
    max_parallel: Workers = None,
) -> None:
    """Resume failed, cancelled and damaged runs from their last checkpoint. While a grid's
    searches are unfinished, retry their failed, interrupted and damaged trials instead."""
    from sweep import launcher
    from sweep.tune import session, table, winners

    store = Store.at(root)
    loaded = tuned_grid(grid, store)
    where = launcher.load_profile(profile, max_parallel=max_parallel, tracking=value_of(tracking))
    if loaded.tune and not winners.are_in(loaded):
        tried = session.retry(loaded, store, where, only=only or (), kind=failed, console=out)
        out.print(table.tabulate(tried, loaded))
        raise typer.Exit(table.exit_code(tried))
    final = launcher.retry(loaded, store, where, only=only or (), kind=failed, console=out)
    raise typer.Exit(final.exit_code if final else 0)
