"""The verb report: a page written to a file, or served while its sweep runs."""

from __future__ import annotations

from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from core.config import ConfigError
from core.data.digests import Known
from core.store.folders import Store
from sweep.cli.opening import cost_of, look, manifest, tuned_grid
from sweep.cli.options import LOOK, GridArgument, Only, Root
from sweep.cli.printing import err, out
from sweep.cli.results import Folder, require_something, say_what_is_missing

if TYPE_CHECKING:
    from analysis.report import Digests
    from analysis.report.live import Live
    from sweep.grid import Grid

verbs = typer.Typer()


@verbs.command(rich_help_panel=LOOK)
def report(
    grid: GridArgument,
    root: Root = None,
    only: Only = None,
    output: Folder = None,
    wandb: Annotated[
        str | None,
        typer.Option("--wandb", metavar="ENTITY/PROJECT", help="Link every run to W&B."),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Serve the page on this machine, kept current, until Ctrl-C."),
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port for --serve; 0 takes a free one.")
    ] = 0,
) -> None:
    """Write one self-contained HTML page about a grid: findings, tables, figures, every run."""
    from analysis import Results
    from analysis.report import Digests, write

    if (serve and output) or (port and not serve):
        raise ConfigError("--output, --port: expected --output to write a page, or --serve --port")
    store = Store.at(root)
    loaded = tuned_grid(grid, store)
    runs = look(loaded, store, only).runs if only else loaded.runs
    results = Results(store.root, manifest(runs))
    if not serve:
        loaded, runs = replace(loaded, runs=()), ()  # the page needs only rows, not 100 MB of runs
        require_something(results, "report")
    address = f"https://wandb.ai/{wandb}" if wandb else None
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("reading runs", total=len(results.runs))
        digests = Digests.of(results, lambda: bar.advance(task))
        if not serve:
            bar.add_task("making the page", total=None)
            page = write(
                digests,
                output or store.root / "reports" / loaded.name,
                title=loaded.name,
                about=loaded.about,
                wandb=address,
                tables=loaded.tables,
            )
    if serve:
        _serve(_answers(loaded, store, only or [], digests, address), port)
        return
    say_what_is_missing(results)
    out.print(str(page), soft_wrap=True)


def _answers(grid: Grid, store: Store, only: list[str], first: Digests, wandb: str | None) -> Live:
    """What the report's server answers with. first: the runs as read so far."""
    from analysis import Results
    from analysis.report import Digests, core, details_of, page
    from analysis.report.live import Live, Now
    from sweep import budget, launcher
    from sweep.state import display
    from sweep.state.plan import Plan, State

    known, clock = Known(store), display.Clock()
    latest: Plan | None = None
    cost = cost_of(grid, store, launcher.load_profile("local"))
    shown = {run.dir.id for run in first.runs}
    rows = manifest(run for run in grid.runs if run.id in shown)

    def seen() -> Now:
        nonlocal latest
        plan = latest = launcher.look(grid, store, only, known=known, before=latest)
        left = clock.left(plan)
        lines = [
            display.counts_line(plan).plain,
            *budget.hours(plan, cost).lines,
            *([f"about {display.duration(left)} left at the current pace"] if left else []),
            *(line.plain for line in display.reasons(plan, 8)),
        ]
        told = {
            one.run.id: [str(one.state), display.progress(one), one.reason or ""]
            for one in plan.statuses
        }
        return Now(told, lines, frozenset(run.id for run in plan.of({State.DONE})))

    def read() -> Digests:
        return Digests.of(Results(store.root, rows))

    return Live(
        seen,
        core=lambda: core(read(), wandb, grid.tables),
        page=lambda: page(read(), grid.name, grid.about, wandb, grid.tables, live=True),
        run=lambda name: details_of(first, name),
    )


def _serve(live: Live, port: int) -> None:
    """Answer on this machine until Ctrl-C. port: 0 takes a free one. Raises ConfigError if the
    port is not available."""
    from analysis.report.live import server

    try:
        made, address = server(live, port)
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror}") from None
    live.begin()
    out.print(
        f"{address}  (Ctrl-C stops it; from another machine, forward this port with ssh -L)",
        soft_wrap=True,
    )
    looking = Thread(target=live.follow, daemon=True)
    looking.start()
    try:
        made.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        live.stop()
        made.server_close()
