"""The verbs plan, launch, dry-run, run and demo."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from core.config import ConfigError
from core.errors import ClusterError, StoppedError
from core.store.folders import Store
from sweep.cli.opening import cost_of, look, tuned_grid
from sweep.cli.options import (
    PREPARE,
    RUN,
    GridArgument,
    GridArguments,
    Json,
    Only,
    ProfileOption,
    Root,
    TrackingOption,
    Workers,
    value_of,
)
from sweep.cli.printing import err, out, print_lacks, print_plan, print_scripts, print_warnings

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
    raise typer.Exit(final.exit_code if final else 0)


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
    try:
        found = rehearse(whole, seen.runs, store, where, out)
    except StoppedError:
        err.print("stopped; a dry run keeps nothing: the next one starts over", style="yellow")
        raise typer.Exit(130) from None
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
