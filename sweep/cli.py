"""The command line: `sweep VERB ...`. Each verb composes the packages and prints the outcome.

Exit codes: 0 ok, 1 failure, 2 usage or bad input, 3 incomplete results.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from core.config import ConfigError
from core.rundir import Store, write_text
from slurm.command import ClusterError
from slurm.profile import ProfileError
from sweep.stop import StoppedError

if TYPE_CHECKING:
    from analysis.command import Source
    from sweep.grid import Grid, Run
    from sweep.plan import Plan

app = typer.Typer(
    name="sweep",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Sweeps of robust fine-tuning runs: one grid file to jobs, curves and the paper's tables.",
)
WIDE = 160
"""Columns where nothing tells (a file, a pipe): tables are not squeezed there."""

out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE)
err = Console(stderr=True)

GridArgument = Annotated[
    str, typer.Argument(metavar="GRID", help="A grid file, or the name of a shipped grid.")
]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="Folder of all results [default: $EPSWEEP_ROOT or ./outputs]."),
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", help="Runs to take: backbone=swin dataset=cars,cub state=failed."),
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
        help="W&B mode [default: the profile's; auto is online where a login exists].",
    ),
]
Workers = Annotated[
    int | None, typer.Option("--max-parallel", min=1, help="Runs at the same time at most.")
]


def main() -> None:
    """Entry point of the console script: known failures become one line each, never a traceback."""
    sys.argv[1:] = spread_only(sys.argv[1:])
    try:
        app()
    except (ConfigError, ProfileError) as error:
        for line in str(error).splitlines():
            err.print(Text(line, style="red"), soft_wrap=True)
        sys.exit(2)
    except ClusterError as error:
        err.print(Text(str(error), style="red"), soft_wrap=True)
        sys.exit(1)
    except StoppedError:
        err.print("stopped; runs are resumable: the same command goes on", style="yellow")
        sys.exit(130)
    except OSError as error:
        err.print(Text(f"{error.filename or 'disk'}: {error.strerror}", style="red"))
        sys.exit(1)


def spread_only(arguments: list[str]) -> list[str]:
    """`--only a=1 b=2` as the option parser knows it: `--only a=1 --only b=2`."""
    spread: list[str] = []
    taking = False
    for argument in arguments:
        if argument.startswith("-"):
            taking = argument == "--only"
        elif taking and "=" in argument and spread[-1] != "--only":
            spread.append("--only")
        else:
            taking = taking and "=" in argument
        spread.append(argument)
    return spread


@app.command()
def plan(grid: GridArgument, root: Root = None, only: Only = None, json: Json = False) -> None:
    """Show what would run. Touches nothing."""
    from sweep.plan import as_json

    loaded, store = _load(grid), Store.at(root)
    seen = _look(loaded, store, only)
    if json:
        typer.echo(as_json(seen, name=loaded.name, shared=loaded.shared))
        return
    _print_plan(loaded, seen)


@app.command()
def launch(
    grid: GridArgument,
    profile: ProfileOption = "local",
    root: Root = None,
    only: Only = None,
    max_parallel: Workers = None,
    tracking: TrackingOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and the exact job script; stop.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return at once; local workers go on by themselves.")
    ] = False,
) -> None:
    """Run everything a grid still lacks. Repeating it is safe: what is done or running stays."""
    from sweep import launch as launching

    loaded, store = _load(grid), Store.at(root)
    where = launching.load_profile(profile, max_parallel=max_parallel, tracking=_value(tracking))
    if dry_run:
        seen = _look(loaded, store, only)
        _print_plan(loaded, seen)
        typer.echo(launching.job_script(loaded, seen, store, where))
        return
    final = launching.launch(loaded, store, where, only=only or (), console=out, wait=not detach)
    raise typer.Exit(_outcome(final))


@app.command()
def status(
    grid: GridArgument,
    root: Root = None,
    only: Only = None,
    json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until interrupted.")] = False,
) -> None:
    """Show where every run of a grid stands, and why the failed ones failed."""
    from sweep import breaker
    from sweep import watch as watching
    from sweep.plan import as_json

    loaded, store = _load(grid), Store.at(root)
    if watch:
        watching.follow(lambda: _look(loaded, store, only), out)
        return
    seen = _look(loaded, store, only)
    if json:
        typer.echo(as_json(seen, name=loaded.name))
    else:
        out.print(watching.table(seen))
        held = breaker.tripped(store.sweep(loaded.name))
        if held:
            out.print(Text(str(held), style="red"), soft_wrap=True)


@app.command()
def logs(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or the beginning of one.")],
    root: Root = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
) -> None:
    """Print a run's log: every epoch, evaluation and, where it failed, the traceback."""
    from sweep import logs as logging

    folder = logging.find(Store.at(root), run)
    for piece in logging.read(folder, follow=follow):
        sys.stdout.write(piece)
        sys.stdout.flush()


@app.command()
def cancel(grid: GridArgument, root: Root = None, only: Only = None) -> None:
    """Stop pending and running runs; they keep their checkpoints, and retry runs them again."""
    from sweep import cancel as cancelling

    loaded, store = _load(grid), Store.at(root)
    runs = cancelling.cancel(_look(loaded, store, only), store.sweep(loaded.name), store)
    out.print(f"{len(runs)} runs asked to stop" if runs else "nothing is pending or running")


@app.command()
def retry(
    grid: GridArgument,
    profile: ProfileOption = "local",
    root: Root = None,
    only: Only = None,
    failed: Annotated[
        str | None, typer.Option("--failed", help="Only this class: oom, diverged, disk, ...")
    ] = None,
    tracking: TrackingOption = None,
    max_parallel: Workers = None,
) -> None:
    """Run failed and cancelled runs again, from their last checkpoint."""
    from sweep import launch as launching

    loaded, store = _load(grid), Store.at(root)
    where = launching.load_profile(profile, max_parallel=max_parallel, tracking=_value(tracking))
    final = launching.retry(loaded, store, where, only=only or (), kind=failed, console=out)
    raise typer.Exit(_outcome(final))


@app.command(name="dry-run")
def dry_run(
    grid: GridArgument, profile: ProfileOption = "local", root: Root = None, only: Only = None
) -> None:
    """Check a grid before it costs anything: its plan, its job script, and every distinct run in
    miniature (few images, random weights, two batches) through the real code on this machine."""
    from sweep import launch as launching
    from sweep import miniature

    loaded, store = _load(grid), Store.at(root)
    where = launching.load_profile(profile)
    seen = _look(loaded, store, only)
    _print_plan(loaded, seen)
    typer.echo(launching.job_script(loaded, seen, store, where))
    final = miniature.rehearse(loaded, seen, store, out)
    raise typer.Exit(_outcome(final))


@app.command()
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="A resolved run config.")],
    root: Root = None,
    tracking: TrackingOption = None,
) -> None:
    """Train and evaluate one run in this process (what a node does)."""
    from sweep import single

    state = single.run(config, Store.at(root), _value(tracking) or "auto", out)
    raise typer.Exit(0 if state == "done" else 1)


@app.command()
def doctor(
    grid: Annotated[str | None, typer.Argument(metavar="[GRID]")] = None,
    profile: ProfileOption = "local",
    root: Root = None,
    node: Annotated[
        bool, typer.Option("--node", help="Also ask torch on a compute node (a short job).")
    ] = False,
    json: Json = False,
) -> None:
    """Check that a launch would work: profile, cluster, limits, data, weights, disk, W&B, GPU."""
    from dataclasses import asdict
    from json import dumps

    from sweep import doctor as checkup
    from sweep import launch as launching

    where = launching.load_profile(profile)
    checks = checkup.examine(where, Store.at(root), _load(grid) if grid else None, node=node)
    if json:
        typer.echo(dumps([asdict(check) for check in checks], indent=1))
    else:
        out.print(checkup.table(checks))
    raise typer.Exit(int(any(check.verdict == "fail" for check in checks)))


@app.command()
def sync(grid: GridArgument, root: Root = None, only: Only = None) -> None:
    """Upload the runs that W&B does not have yet (they were tracked offline)."""
    from sweep import sync as syncing

    loaded, store = _load(grid), Store.at(root)
    runs = [status.run for status in _look(loaded, store, only).statuses]
    folders = syncing.segments(runs, store)
    failed = 0
    for number, (folder, problem) in enumerate(syncing.upload(folders), start=1):
        failed += problem is not None
        line = f"{number}/{len(folders)} {folder.parent.parent.name}: {problem or 'uploaded'}"
        out.print(Text(line, style="red" if problem else ""), soft_wrap=True)
    out.print(
        f"{len(folders) - failed} uploaded, {failed} left" if folders else "nothing to upload"
    )
    raise typer.Exit(1 if failed else 0)


@app.command()
def demo(root: Root = None, max_parallel: Workers = None, tracking: TrackingOption = None) -> None:
    """The paper in miniature on this machine: pretrain, fine-tune under three schedules, show."""
    from sweep import demo as miniature_paper

    raise typer.Exit(miniature_paper.play(Store.at(root), out, max_parallel, _value(tracking)))


class Format(StrEnum):
    """Output of `sweep tables`."""

    markdown = "markdown"
    csv = "csv"
    latex = "latex"
    tidy = "tidy"


OptionalGrid = Annotated[
    str | None, typer.Argument(metavar="[GRID]", help="A grid; or give --from instead.")
]
From = Annotated[
    list[Path] | None,
    typer.Option("--from", help="Published values instead of runs: CSV files or folders."),
]


@app.command()
def tables(
    grid: OptionalGrid = None,
    root: Root = None,
    only: Only = None,
    files: From = None,
    table: Annotated[
        list[int] | None, typer.Option("--table", help="One of the paper's tables: 1, 2, ... 12.")
    ] = None,
    format: Annotated[
        Format, typer.Option("--format", help="How to write them.")
    ] = Format.markdown,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Beside each value the published one, and by how much."),
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Means over the cells there are, with their number.")
    ] = False,
    significant: Annotated[
        bool, typer.Option("--significant", help="Bold only where the difference is significant.")
    ] = False,
    why: Annotated[
        str | None,
        typer.Option("--why", help='Where a cell comes from: "SWIN/Cars/sched/expected".'),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Where the published tables contradict each other.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write there, provenance beside it.")
    ] = None,
) -> None:
    """The paper's tables, from runs or published values (exit code 3 while cells are missing)."""
    from json import dumps

    from analysis import check as published
    from analysis import command

    if check:
        typer.echo(published.check())
        return
    source = _source(grid, root, only, files)
    if why:
        typer.echo(command.explain(source, why))
        return
    made = command.tables(
        source,
        format.value,
        numbers=table or [],
        partial=partial,
        significant=significant,
        compare=compare,
    )
    if output:
        write_text(output, made.text + "\n")
        sidecar = output.with_name(f"{output.name}.provenance.json")
        write_text(sidecar, dumps(command.provenance(source), indent=1) + "\n")
    else:
        typer.echo(made.text)
    for remark in made.remarks:
        err.print(Text(remark, style="yellow"), soft_wrap=True)
    raise typer.Exit(0 if made.complete else 3)


Folder = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write to.")]


@app.command()
def figures(
    grid: OptionalGrid = None,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...")] = None,
    root: Root = None,
    only: Only = None,
    files: From = None,
    output: Folder = None,
) -> None:
    """The paper's figures as PDF and PNG, as far as there are runs for them."""
    from analysis.figures import figures as draw

    source = _source(grid, root, only, files)
    folder = output or Store.at(root).root / "reports" / Path(grid or "published").stem
    for path in draw(source, folder, names or []):
        out.print(str(path), soft_wrap=True)


@app.command()
def report(grid: GridArgument, root: Root = None, only: Only = None, output: Folder = None) -> None:
    """One self-contained HTML page about a grid: findings, tables, figures, every run."""
    from analysis import Results
    from analysis.report import write

    loaded, store = _load(grid), Store.at(root)
    rows = _manifest([status.run for status in _look(loaded, store, only).statuses])
    folder = output or store.root / "reports" / loaded.name
    page = write(Results(store.root, rows), folder, title=loaded.name, about=loaded.about)
    out.print(str(page), soft_wrap=True)


def _source(
    grid: str | None, root: Path | None, only: list[str] | None, files: list[Path] | None
) -> Source:
    """Runs of a grid, or published values."""
    from analysis.command import Source

    if (grid is None) == (not files):
        raise ConfigError("expected either a GRID or --from FILE.csv")
    if grid is None:
        return Source.files(files or [])
    loaded, store = _load(grid), Store.at(root)
    runs = [status.run for status in _look(loaded, store, only).statuses]
    return Source.store(store.root, _manifest(runs))


def _manifest(runs: list[Run]) -> list[dict[str, Any]]:
    from sweep.submit import manifest_row

    return [manifest_row(run) for run in runs]


def _value(tracking: Tracking | None) -> str | None:
    return tracking.value if tracking else None


def _load(grid: str) -> Grid:
    from sweep import grid as grids

    return grids.load(grid)


def _look(loaded: Grid, store: Store, only: list[str] | None) -> Plan:
    from sweep import launch as launching

    return launching.look(loaded, store, only or ())


def _print_plan(loaded: Grid, seen: Plan) -> None:
    from sweep import launch as launching

    out.print(launching.summary(loaded, seen))


def _outcome(final: Plan | None) -> int:
    """1 where a run failed, 3 where one is not done, else 0; None: submitted and not waited for."""
    from sweep.plan import State

    if final is None or final.counts[State.DONE] == len(final.statuses):
        return 0
    return 1 if final.counts[State.FAILED] else 3


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
