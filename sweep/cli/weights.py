"""Verbs on pretrained weights: `sweep weights list|fetch|convert|verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from core.config import ConfigError
from core.store.folders import Store
from sweep.cli.opening import tuned_grid
from sweep.cli.options import Json, ProfileOption, Root
from sweep.cli.printing import out, print_json

verbs = typer.Typer(no_args_is_help=True, help="List, fetch, convert or verify weights.")

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Backbones, by short name or timm id."),
]
Grids = Annotated[
    list[str] | None,
    typer.Option("--grid", help="The backbones whose weights the runs of a grid begin with."),
]


def _wanted(
    names: list[str] | None, grids: list[str] | None, store: Store, *, json: bool = False
) -> list[str]:
    """The backbones that are named, or whose pretrained weights runs of the grids begin with.
    Exits if grids are given but need none."""
    configs = [run.config for path in grids or () for run in tuned_grid(path, store).runs]
    needed = [config.backbone for config in configs if config.weights == "pretrained"]
    if grids and not names and not needed:
        out.print("[]" if json else "no run of the grid starts from pretrained weights")
        raise typer.Exit
    return list(dict.fromkeys([*(names or ()), *needed]))


@verbs.command(name="list")
def list_weights(
    names: Names = None,
    grid: Grids = None,
    profile: ProfileOption = "local",
    root: Root = None,
    json: Json = False,
) -> None:
    """Show the backbones, where their weights come from, and whether they are here."""
    from sweep import launcher
    from sweep.inputs import pretrained

    store, hub = Store.at(root), pretrained.hub_of(launcher.load_profile(profile))
    wanted = _wanted(names, grid, store, json=json)
    if json:
        print_json(pretrained.rows(wanted, store, hub))
        return
    out.print(pretrained.table(wanted, store, hub))
    for name, entry in pretrained.entries(wanted).items() if names else ():
        if entry.note:
            out.print(Text(f"{name}: {entry.note}"), soft_wrap=True)


@verbs.command()
def fetch(
    names: Names = None,
    grid: Grids = None,
    profile: ProfileOption = "local",
    root: Root = None,
) -> None:
    """Download weights to where jobs look for them. Run it on a machine with internet access."""
    from sweep import launcher
    from sweep.inputs import pretrained

    store, hub = Store.at(root), pretrained.hub_of(launcher.load_profile(profile))
    wanted = _wanted(names, grid, store)
    if not wanted:
        raise typer.BadParameter("expected names of backbones, or --grid GRID")
    problems = list[str]()
    for name in pretrained.entries(wanted):
        try:
            out.print(Text(f"{name}: {pretrained.fetch(name, store, hub)}"), soft_wrap=True)
        except ConfigError as error:
            problems += error.lines
    if problems:
        raise ConfigError(*problems)


@verbs.command()
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A released .pt or .pth file.")],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FILE.safetensors", help="File to write [default: beside FILE]."
        ),
    ] = None,
) -> None:
    """Write a released checkpoint as safetensors. No code pickled in it is run."""
    from sweep.inputs import conversion

    written, told = conversion.convert(file, to)
    line = f"{written}: {told['tensors']} tensors, {told['numbers']:,} numbers"
    others = f"; left out: {told['left_out']}" if told["left_out"] else ""
    out.print(Text(line + others), soft_wrap=True)


@verbs.command()
def verify(
    names: Names = None, grid: Grids = None, profile: ProfileOption = "local", root: Root = None
) -> None:
    """Compare weights with their checksums. The exit code is 1 if some are damaged or missing, 3 if
    there are none here."""
    from sweep import launcher
    from sweep.inputs import pretrained

    store, hub = Store.at(root), pretrained.hub_of(launcher.load_profile(profile))
    codes = set[int]()
    for name, finding, fine in pretrained.verify(_wanted(names, grid, store), store, hub):
        codes.add(int(not fine))
        out.print(Text(f"{name}: {finding}", style="" if fine else "red"), soft_wrap=True)
    if not codes:
        out.print(f"no weights in {hub} or {store.weights}", soft_wrap=True)
    raise typer.Exit(max(codes, default=3))
