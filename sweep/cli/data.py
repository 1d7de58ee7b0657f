"""Verbs on what runs need: `sweep data list|prepare|verify|make`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, assert_never

import typer
from rich.text import Text

from core.store.folders import Store
from sweep.cli.options import Json, Root, out


class Made(StrEnum):
    """What `sweep data make` makes images of."""

    FONTS = "fonts"
    IDX = "idx"


verbs = typer.Typer(no_args_is_help=True, help="Datasets: list, prepare, verify, make.")


@verbs.command(name="list")
def list_data(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]")] = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Show the datasets, what of them is here, their licences; with names, where to get them."""
    from json import dumps

    from sweep.inputs import releases

    store = Store.at(root)
    if json:
        typer.echo(dumps(releases.rows(names or (), store), indent=1))
        return
    if names:
        out.print(*(releases.details(name, store) for name in names), sep="\n\n", soft_wrap=True)
    else:
        out.print(releases.table(store))


@verbs.command(name="prepare")
def prepare_data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A dataset of `sweep data list`.")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="The extracted release, its archive, or a folder with its official files "
            "[default: NAME in the data folder].",
        ),
    ] = None,
    size: Annotated[int, typer.Option("--size", min=8, help="Pixels of a side.")] = 224,
    root: Root = None,
) -> None:
    """Check a release and decode it once into the arrays that runs share. Goes on if killed."""
    from sweep.inputs import releases

    folder = releases.prepare(name, source, size, Store.at(root), out)
    out.print(Text(f"{name} is prepared: {folder}"), soft_wrap=True)


@verbs.command(name="verify")
def verify_data(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|FOLDER...]", help="Datasets, or folders of your own images."),
    ] = None,
    root: Root = None,
) -> None:
    """Compare prepared arrays with their checksums; decode every image of an own FOLDER.

    Exit code 1: damage, 3: nothing prepared.
    """
    from sweep.inputs import releases

    store, codes = Store.at(root), set[int]()
    for finding in releases.verify(names or (), store, out):
        codes.add(int(bool(finding.problems)))
        for line in finding.problems or [f"{finding.name}: {finding.summary}"]:
            style = "red" if finding.problems else "green"
            out.print(Text(line, style=style), soft_wrap=True)
        for line in finding.remarks:
            out.print(Text(f"{finding.name}: {line}", style="yellow"), soft_wrap=True)
    if not codes:
        out.print(f"nothing is prepared in {store.data}", soft_wrap=True)
    raise typer.Exit(max(codes, default=3))


@verbs.command(name="make")
def make_data(
    kind: Annotated[Made, typer.Argument(help="fonts: words in every font; idx: as of MNIST.")],
    source: Annotated[Path, typer.Option("--from", help="A folder of fonts, or of idx files.")],
    to: Annotated[Path, typer.Option("--to", help="A new folder, for `dataset:` in a grid.")],
    each: Annotated[
        int | None, typer.Option(min=1, help="Images of a class [default: fonts 100, idx all].")
    ] = None,
    contrast: Annotated[
        int, typer.Option(min=1, max=127, help="Of fonts: letters against their ground, of 255.")
    ] = 64,
) -> None:
    """Make a folder of real images that lie on this machine: which font is a word set in, or what
    idx files hold (Fashion-MNIST is Debian's package dataset-fashion-mnist)."""
    from core.datasets import fonts, idx
    from sweep.inputs.making import make_folder

    match kind:
        case Made.FONTS:
            pictures = fonts.draw_fonts(source, each=each or 100, contrast=contrast)
        case Made.IDX:
            pictures = idx.read_images(source, each=each)
        case _:
            assert_never(kind)
    out.print(Text(f"{to.resolve()}: {make_folder(pictures, to)}"), soft_wrap=True)
