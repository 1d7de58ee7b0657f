"""Verbs that read results: tables, figures, export."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.text import Text

from core.config import ConfigError, nearest
from core.store.files import write_text
from core.store.folders import Store
from sweep.cli import guide
from sweep.cli.options import (
    LOOK,
    Only,
    Root,
    err,
    look,
    manifest,
    out,
    tuned_grid,
)

if TYPE_CHECKING:
    from analysis import Results
    from analysis.command import Output, Source
    from sweep.grid import Grid


verbs = typer.Typer()


class Format(StrEnum):
    """Output of `sweep tables`."""

    markdown = "markdown"
    csv = "csv"
    latex = "latex"
    tidy = "tidy"
    dataframe = "dataframe"


FIGURES = (
    *("transfer", "adaptation", "robustness", "training", "delay", "dynamics"),
    *("margins", "roc", "estimates", "strength", "bars", "pareto", "hinges"),
)
"""Those of `analysis.figures`, which takes a second to import."""

OptionalGrid = Annotated[
    str | None, typer.Argument(metavar="[GRID]", help="A grid; or give --from instead.")
]
From = Annotated[
    list[Path] | None,
    typer.Option("--from", help="Published values instead of runs: CSV files or folders."),
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
            help="Of the paper's: 1 to 4, 6 to 12, or margin [default: those the grid feeds]. "
            "Table 5 lists backbones: sweep weights list. Of the Guide's: "
            f"{', '.join(guide.TABLES)}.",
        ),
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option("--format", help="How to write them [default: markdown, or for a terminal]."),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Beside each value the published one, and by how much."),
    ] = False,
    attacks: Annotated[
        bool,
        typer.Option("--attacks", help="Each run under all its attacks, and where they differ."),
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
        bool,
        typer.Option("--check", help="Where published numbers contradict each other or the text."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write there, provenance beside it.")
    ] = None,
) -> None:
    """The paper's tables, from runs or published values (exit code 3 while cells are missing)."""
    from json import dumps

    from analysis import command
    from analysis.check import check_published

    asked = [*(table or ()), *["attacks"] * attacks]
    if not why and guide.is_meant(grid, asked, files):
        if partial or significant:
            raise ConfigError("--partial, --significant: do not apply to the Guide's tables")
        measured = guide.source(grid, root, only, files, published=check)
        form = format.value if format else None
        made = guide.tables(measured, asked, form, output, compare=compare, check=check)
        _print(made, format, None if form == "dataframe" else output)
    if check:
        typer.echo(check_published())
        return
    source, loaded = _source(grid, root, only, files)
    if why:
        typer.echo(command.explain(source, why))
        return
    if format is Format.dataframe:
        if output is None:
            raise ConfigError("--format dataframe: expected --output FILE.parquet or FILE.csv")
        out.print(str(command.export(source, output)), soft_wrap=True)
        _warn(source)
        return
    fed = _numbers(loaded.tables if loaded else ())
    made = command.tables(
        source,
        (format or Format.markdown).value,
        numbers=_numbers(asked) or (() if compare else fed),
        partial=partial,
        significant=significant,
        compare=compare,
    )
    if output:
        sidecar = output.with_name(f"{output.name}.provenance.json")
        write_text(sidecar, dumps(command.provenance(source), indent=1) + "\n")
    _print(made, format, output)


def _print(made: Output, format: Format | None, output: Path | None) -> NoReturn:
    """Tables to a file or the terminal, what is to be said of them, and the exit code."""
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


def _numbers(names: Iterable[str]) -> list[int]:
    """Tables as `analysis.command` counts them. Raises ConfigError."""
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
            help=f"Only these: {', '.join(FIGURES)}; of the Guide's {', '.join(guide.FIGURES)}.",
        ),
    ] = None,
    root: Root = None,
    only: Only = None,
    files: From = None,
    output: Folder = None,
) -> None:
    """The paper's figures as PDF and PNG, as far as there are runs for them."""
    from analysis.figures import write_figures

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
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run id, or the beginning of one.")],
    to: Annotated[Path, typer.Option("--to", help="A new folder.")],
    root: Root = None,
) -> None:
    """Write a run's trained network for other programs: safetensors, timm's config, and a card."""
    from core.run import trained
    from sweep.state import run_logs

    store = Store.at(root)
    card = trained.export(run_logs.find(store, run), store, to)
    out.print(Text(f"{card['run']}\n{to}\nload it with: {card['load']}"), soft_wrap=True)


def require_something(results: Results, verb: str) -> None:
    """Leave with exit code 3 where no run has anything yet."""
    if not any(run.dir.metrics.is_file() or run.dir.result.is_file() for run in results.runs):
        counts = _counts(run.state for run in results.runs)
        line = f"nothing to {verb}: no run has an epoch or a result yet ({counts})"
        err.print(Text(line, style="red"), soft_wrap=True)
        raise typer.Exit(3)


def say_what_is_missing(results: Results) -> None:
    """In one line, to who looks at the terminal."""
    if set(results.table["state"]) != {"done"}:
        counts = _counts(results.table["state"])
        line = f"incomplete: {counts}; what is missing is left out or marked"
        err.print(Text(line, style="yellow"), soft_wrap=True)


def _counts(states: Iterable[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in Counter(states).most_common())


def _warn(source: Source) -> None:
    """Of what neither a figure nor a frame can say: hyper-parameters from too small a search."""
    from analysis.tuned import sentence

    few = sentence(source.results) if source.results else None
    if few:
        err.print(Text(few, style="yellow"), soft_wrap=True)


def _source(
    grid: str | None, root: Path | None, only: list[str] | None, files: list[Path] | None
) -> tuple[Source, Grid | None]:
    """Runs of a grid and that grid, or published values and None."""
    from analysis.command import Source

    if (grid is None) == (not files):
        raise ConfigError("expected either a GRID or --from FILE.csv")
    if grid is None:
        return Source.files(files or []), None
    store = Store.at(root)
    loaded = tuned_grid(grid, store)
    runs = [status.run for status in look(loaded, store, only).statuses]
    return Source.store(store.root, manifest(runs)), loaded
