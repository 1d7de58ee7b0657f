"""The verbs that read results: tables, figures, export."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.text import Text

from core.config import ConfigError, nearest
from core.store.files import write_text
from core.store.folders import Store
from sweep.cli import guide
from sweep.cli.opening import manifest, opened
from sweep.cli.options import LOOK, Only, Root
from sweep.cli.printing import err, frame_file, out, write_sidecar

if TYPE_CHECKING:
    from analysis import Results
    from analysis.command import Output, Source
    from sweep.grid import Grid


verbs = typer.Typer()


class Format(StrEnum):
    """Formats of `sweep tables`."""

    markdown = "markdown"
    csv = "csv"
    latex = "latex"
    tidy = "tidy"
    dataframe = "dataframe"


FIGURES = (
    *("transfer", "adaptation", "robustness", "training", "delay", "dynamics"),
    *("margins", "roc", "estimates", "strength", "bars", "pareto", "hinges"),
)
"""Repeats the names in `analysis.figures`, which takes a second to import."""
TABLES = ("main", "margin", "attacks", "regret")
"""Repeats the names in `analysis.command`."""

OptionalGrid = Annotated[
    str | None,
    typer.Argument(metavar="GRID", help="A grid file or name, unless --from is given."),
]
From = Annotated[
    list[Path] | None,
    typer.Option("--from", help="Read published values instead of runs: CSV files or folders."),
]


@verbs.command(rich_help_panel=LOOK)
def tables(
    grid: OptionalGrid = None,
    root: Root = None,
    only: Only = None,
    files: From = None,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            metavar="TABLE...",
            help="From the paper: 1 to 4, 6 to 12 [default: those the grid names]. Table 5 lists "
            "backbones, see sweep weights list. Also margin, attacks, and regret, which compares "
            "schedules with `sched`. From the Guide: "
            f"{', '.join(guide.TABLES)}.",
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option("--format", help="Format [default: markdown, or laid out in a terminal]."),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Show published values and the difference beside yours."),
    ] = False,
    attacks: Annotated[
        bool,
        typer.Option("--attacks", help="Compare the attacks on each run, and where they differ."),
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Average over the cells present, with their count.")
    ] = False,
    significant: Annotated[
        bool, typer.Option("--significant", help="Set the best in bold only if significant.")
    ] = False,
    why: Annotated[
        str | None,
        typer.Option("--why", help='Trace a cell to its runs: "SWIN/Cars/sched/clean".'),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="List contradictions within what the papers published."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write, provenance beside it.")
    ] = None,
) -> None:
    """Show the paper's tables, from runs or published values. The exit code is 3 while cells are
    missing."""
    from analysis import command
    from analysis.check import check_published

    asked = [*(table or ()), *["attacks"] * attacks]
    numbers = _numbers([name for name in asked if name not in guide.TABLES])
    others = {
        "--table": table,
        "--format": format,
        "--compare": compare,
        "--attacks": attacks,
        "--partial": partial,
        "--significant": significant,
        "--why": why,
    }
    if check and (given := [name for name, value in others.items() if value]):
        raise ConfigError(f"--check: takes none of these: {', '.join(given)}")
    if not why and guide.is_meant(grid, asked, files):
        if partial or significant:
            raise ConfigError("--partial, --significant: do not apply to the Guide's tables")
        measured = guide.source(grid, root, only, files, published=check)
        form = format.value if format else None
        made = guide.tables(measured, asked, form, output, compare=compare, check=check)
        _print(made, format, None if form == "dataframe" else output)
    if check:
        _print(command.Output(check_published(), True), format, output)
    source, loaded = _source(grid, root, only, files)
    if why:
        typer.echo(command.explain(source, why))
        return
    if format is Format.dataframe:
        out.print(str(command.export(source, frame_file(output))), soft_wrap=True)
        _warn(source)
        return
    fed = _numbers(loaded.tables if loaded else ())
    made = command.tables(
        source,
        (format or Format.markdown).value,
        numbers=numbers or (() if compare else fed),
        partial=partial,
        significant=significant,
        compare=compare,
    )
    if output:
        write_sidecar(output, command.provenance(source))
    _print(made, format, output)


def _print(made: Output, format: Format | None, output: Path | None) -> NoReturn:
    """Print tables to a file or the terminal, remarks to stderr, and exit: 3 if incomplete."""
    from analysis.formats import terminal

    if output:
        write_text(output, made.text + "\n")
    elif format is None and sys.stdout.isatty():
        for laid_out in made.tables:
            out.print(terminal(laid_out))
    else:
        typer.echo(made.text)
    for remark in made.remarks:
        err.print(Text(remark, style="yellow"), soft_wrap=True)
    raise typer.Exit(0 if made.complete else 3)


def _numbers(names: Sequence[str]) -> list[int]:
    """The numbers `analysis.command` gives to tables. Raises ConfigError for an unknown name."""
    from analysis.command import NAMED

    for name in names:
        if name not in NAMED and not (name.isdecimal() and int(name)):
            known = f"the number of a table or one of {', '.join(NAMED)}"
            what = f"{known}, got '{name}'; of the Guide's"
            raise ConfigError(f"--table: expected {what}{nearest(name, guide.TABLES, shown=20)}")
    return [NAMED[name] if name in NAMED else int(name) for name in names]


Folder = Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write to.")]


@verbs.command(rich_help_panel=LOOK)
def figures(
    grid: OptionalGrid = None,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--figure",
            metavar="NAME...",
            help=f"Draw only these: {', '.join(FIGURES)}; from the Guide: "
            f"{', '.join(guide.FIGURES)}.",
        ),
    ] = None,
    root: Root = None,
    only: Only = None,
    files: From = None,
    output: Folder = None,
) -> None:
    """Draw the paper's figures as PDF and PNG, those for which there are runs."""
    from analysis.figures import write_figures

    for name in names or ():
        if name not in (*FIGURES, *guide.FIGURES):
            known = (*FIGURES, *guide.FIGURES)
            raise ConfigError(f"--figure: unknown figure '{name}'{nearest(name, known, shown=20)}")
    if guide.is_meant(grid, names or (), files):
        import analysis.guide.figures

        measured = guide.source(grid, root, only, files)
        folder = output or Store.at(root).root / "reports" / (Path(grid).stem if grid else "guide")
        for path in analysis.guide.figures.write_figures(measured.frame, folder, names or []):
            out.print(str(path), soft_wrap=True)
        return
    source, loaded = _source(grid, root, only, files)
    if source.results:
        require_something(source.results, "draw")
        say_what_is_missing(source.results)
    name = loaded.name if loaded else "published"
    folder = output or Store.at(root).root / "reports" / name
    for path in write_figures(source, folder, names or []):
        out.print(str(path), soft_wrap=True)
    _warn(source)


@verbs.command(rich_help_panel=LOOK)
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run id or the start of one.")],
    to: Annotated[Path, typer.Option("--to", help="A new folder to write to.")],
    root: Root = None,
) -> None:
    """Write a run's trained network for other programs: safetensors, timm's config, and a card."""
    from core.run import trained
    from sweep.state import run_logs

    store = Store.at(root)
    card = trained.export(run_logs.find(store, run), store, to)
    out.print(Text(f"{card['run']}\n{to}\nload it with: {card['load']}"), soft_wrap=True)


def require_something(results: Results, verb: str) -> None:
    """Exit with code 3 if no run has an epoch or a result yet."""
    if not any(run.dir.metrics.is_file() or run.dir.result.is_file() for run in results.runs):
        counts = _counts(run.state for run in results.runs)
        where = results.store.root
        line = f"nothing to {verb}: no run in {where} has an epoch or a result yet ({counts})"
        err.print(Text(line, style="red"), soft_wrap=True)
        raise typer.Exit(3)


def say_what_is_missing(results: Results) -> None:
    """Warn in one line on stderr if some runs are not done."""
    if set(results.table["state"]) != {"done"}:
        counts = _counts(results.table["state"])
        line = f"incomplete: {counts}; missing values are left out or marked"
        err.print(Text(line, style="yellow"), soft_wrap=True)


def _counts(states: Iterable[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in Counter(states).most_common())


def _warn(source: Source) -> None:
    """Warn on stderr of hyper-parameters from too small a search: figures and data frames have no
    place to say so."""
    from analysis.tuned import sentence

    few = sentence(source.results) if source.results else None
    if few:
        err.print(Text(few, style="yellow"), soft_wrap=True)


def _source(
    grid: str | None, root: Path | None, only: list[str] | None, files: list[Path] | None
) -> tuple[Source, Grid | None]:
    """The runs of a grid and that grid, or the published values in files and None."""
    from analysis.command import Source

    if (grid is None) == (not files):
        raise ConfigError("expected either a GRID or --from FILE.csv")
    if grid is None:
        return Source.files(files or []), None
    store, loaded, seen = opened(grid, root, only)
    return Source.store(store.root, manifest(seen.runs)), loaded
