"""The verbs plan, launch, status, logs, cancel, retry, dry-run, run and demo."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from core.config import ConfigError
from core.data.digests import Known
from core.errors import ClusterError, counted
from core.store.folders import Store
from sweep.cli.options import (
    LOOK,
    PREPARE,
    REPAIR,
    RUN,
    GridArgument,
    GridArguments,
    Json,
    Only,
    ProfileOption,
    Root,
    Sort,
    SortOption,
    TrackingOption,
    Workers,
    cost_of,
    look,
    opened,
    out,
    outcome,
    print_lacks,
    print_plan,
    print_scripts,
    print_warnings,
    tuned_grid,
    value_of,
)

verbs = typer.Typer()


@verbs.command(rich_help_panel=PREPARE)
def plan(
    grids: GridArguments,
    profile: ProfileOption = "local",
    root: Root = None,
    only: Only = None,
    published: Annotated[
        str | None,
        typer.Option(
            "--published",
            metavar="METRIC",
            help="Also the published accuracy: clean, linf, expected, ...",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show what would run and what is missing for it, and for several grids what they share.
    Changes nothing."""
    from sweep import launcher, several
    from sweep.cli import guide
    from sweep.state.plan import as_json
    from sweep.tune import winners

    store = Store.at(root)
    loaded = [tuned_grid(grid, store) for grid in grids]
    where = launcher.load_profile(profile)
    for grid in loaded:
        print_warnings(grid)
    if published and len(loaded) > 1:
        raise ConfigError("--published: expected one GRID")
    if len(loaded) == 1:
        seen = look(loaded[0], store, only)
        printed = guide.published(loaded[0], seen, published) if published else None
        cost = cost_of(loaded[0], store, where)
        if json:
            more = {"shared": loaded[0].shared, **winners.as_dict(loaded[0])}
            more |= {"published": printed.values} if printed else {}
            estimate = cost.as_dict(seen.runs, loaded[0].searches)
            sys.stdout.writelines(as_json(seen, name=loaded[0].name, estimate=estimate, **more))
            return
        print_plan(loaded[0], seen, cost, printed)
    else:
        shares = several.look(loaded, store, only or (), where)
        seen = several.union(shares)
        if json:
            sys.stdout.writelines(as_json(seen, grids=several.as_dict(shares)))
            return
        out.print(several.table(shares))
    print_lacks(seen, store, where)


@verbs.command(rich_help_panel=RUN)
def launch(
    grid: GridArgument,
    profile: ProfileOption = "local",
    root: Root = None,
    only: Only = None,
    max_parallel: Workers = None,
    tracking: TrackingOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the plan and the exact job script.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return at once; local workers run in the background.")
    ] = False,
    feed: Annotated[
        bool,
        typer.Option("--feed", help="If the cluster limits jobs, stay and submit the rest later."),
    ] = False,
) -> None:
    """Run everything a grid still lacks. Repeating it is safe: it leaves alone what is done or
    running."""
    from sweep import launcher
    from sweep.state.plan import LAUNCHABLE

    store = Store.at(root)
    loaded = tuned_grid(grid, store)
    where = launcher.load_profile(profile, max_parallel=max_parallel, tracking=value_of(tracking))
    print_warnings(loaded)
    if dry_run:
        seen = look(loaded, store, only)
        print_plan(loaded, seen, cost_of(loaded, store, where))
        launcher.require(loaded, seen.of(LAUNCHABLE), store, where)
        print_scripts(loaded, seen, store, where)
        return
    final = launcher.launch(
        loaded,
        store,
        where,
        only=only or (),
        console=out,
        wait=not detach,
        feed_s=launcher.FEED_S if feed else None,
    )
    raise typer.Exit(outcome(final))


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
    from sweep import launcher, summary
    from sweep.state import breaker, diagnosis
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
        watcher.follow(lambda: launcher.look(loaded, store, only or (), known=known), out)
        return
    seen = look(loaded, store, only)
    found = diagnosis.diagnose(seen, store) if diagnose else {}
    cost = cost_of(loaded, store, launcher.load_profile("local"))
    if json:
        hours = summary.hours(seen, cost)._asdict()
        more = winners.as_dict(loaded)
        if diagnose:
            more["diagnosis"] = diagnosis.as_dict(found)
        sys.stdout.writelines(as_json(seen, name=loaded.name, hours=hours, **more))
    else:
        # Without a profile, how many runs go at once is unknown: no wall time is shown.
        out.print(summary.of(loaded, seen, replace(cost, at_once=None)))
        with out.pager() if every and out.is_terminal else nullcontext():
            most = len(seen.statuses) if every else watcher.ROWS
            listed, first = (seen.ordered(sort), page or 1) if sort else (seen, page)
            spent = sort is Sort.hours
            out.print(watcher.table(listed, footer=False, most=most, page=first, spent=spent))
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
    raise typer.Exit(outcome(final))


@verbs.command(name="dry-run", rich_help_panel=PREPARE)
def dry_run(
    grids: GridArguments, profile: ProfileOption = "local", root: Root = None, only: Only = None
) -> None:
    """Check grids before they cost anything: show the plan and job scripts, and put every distinct
    run in miniature (few generated images, random weights, two batches) through the real code."""
    from sweep import launcher, several
    from sweep.rehearsal.dry_run import rehearse, report

    store = Store.at(root)
    loaded = [tuned_grid(grid, store) for grid in grids]
    where = launcher.load_profile(profile)
    shares = several.look(loaded, store, only or (), where)
    seen = several.union(shares)
    if len(loaded) == 1:
        print_plan(loaded[0], seen, shares[0].cost)
    else:
        out.print(several.table(shares))
    accepted = True
    # Local workers have the same command line for every grid: one is enough.
    for share in shares if where.remote else shares[:1]:
        try:
            print_scripts(share.grid, share.plan, store, where)
        except ClusterError as error:  # reported as one finding among others
            out.print(Text(str(error), style="red"), soft_wrap=True)
            accepted = False
    print_lacks(seen, store, where)
    whole = replace(loaded[0], runs=tuple(run for grid in loaded for run in grid.runs))
    found = rehearse(whole, seen.runs, store, where, out)
    out.print(report(found, where), soft_wrap=True)
    raise typer.Exit(0 if found.passed and accepted else 1)


@verbs.command(rich_help_panel=RUN)
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="A resolved run config.")],
    root: Root = None,
    tracking: TrackingOption = None,
) -> None:
    """Train and evaluate one run in this process, as a node does."""
    from sweep.submit import in_process

    state = in_process.run(config, Store.at(root), value_of(tracking) or "auto", out)
    raise typer.Exit(0 if state == "done" else 1)


@verbs.command(rich_help_panel=RUN)
def demo(
    real: Annotated[
        bool,
        typer.Option("--real", help="Use ImageNet weights, and real images of fonts and clothes."),
    ] = False,
    share: Annotated[
        Path | None,
        typer.Option(
            help="For --real: has fonts/ and datasets/fashion-mnist/ [default: /usr/share]."
        ),
    ] = None,
    root: Root = None,
    max_parallel: Workers = None,
    tracking: TrackingOption = None,
) -> None:
    """Run the paper in miniature on this machine: pretrain, fine-tune under three schedules, and
    show the table and figures."""
    from sweep.demo import play

    if share and not real:
        raise ConfigError("demo --share: expected with --real")
    where = share or Path("/usr/share") if real else None
    raise typer.Exit(play(Store.at(root), out, max_parallel, value_of(tracking), where))
