"""Verbs on datasets: `sweep data list|prepare|verify|make`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, assert_never

import typer
from rich.text import Text

from core.store.folders import Store
from sweep.cli.options import Json, Root
from sweep.cli.printing import out, print_json


class Made(StrEnum):
    """Sources that `sweep data make` makes images from."""

    FONTS = "fonts"
    IDX = "idx"


verbs = typer.Typer(no_args_is_help=True, help="List, prepare, verify or make datasets.")


@verbs.command(name="list")
def list_data(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Datasets [default: all].")
    ] = None,
    root: Root = None,
    json: Json = False,
) -> None:
    """Show the datasets, which are prepared here, and their licences. With names, show where to
    get them."""
    from sweep.inputs import releases

    store = Store.at(root)
    if json:
        print_json(releases.rows(names or (), store))
        return
    if names:
        out.print(*(releases.details(name, store) for name in names), sep="\n\n", soft_wrap=True)
    else:
        out.print(releases.table(store))


@verbs.command(name="prepare")
def prepare_data(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A dataset that `sweep data list` shows.")
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="The extracted release, its archive, or a folder with its official files "
            "[default: NAME in the data folder].",
        ),
    ] = None,
    size: Annotated[int, typer.Option("--size", min=8, help="Image side in pixels.")] = 224,
    root: Root = None,
) -> None:
    """Check a release and decode it once into the arrays that runs share. Repeat to resume."""
    from sweep.inputs import releases

    folder = releases.prepare(name, source, size, Store.at(root), out)
    out.print(Text(f"{name} is prepared: {folder}"), soft_wrap=True)


@verbs.command(name="verify")
def verify_data(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|FOLDER", help="Datasets, or folders of your own images."),
    ] = None,
    root: Root = None,
) -> None:
    """Compare prepared arrays with their checksums, and decode every image in FOLDER.

    The exit code is 1 if something is damaged, 3 if nothing is prepared.
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
    kind: Annotated[
        Made, typer.Argument(metavar="KIND", help="fonts: draw words; idx: read MNIST's format.")
    ],
    source: Annotated[Path, typer.Option("--from", help="A folder of fonts or of idx files.")],
    to: Annotated[Path, typer.Option("--to", help="A new folder, for `dataset:` in a grid.")],
    each: Annotated[
        int | None, typer.Option(min=1, help="Images per class [default: fonts 100, idx all].")
    ] = None,
    contrast: Annotated[
        int,
        typer.Option(min=1, max=127, help="fonts only: contrast of letters to background, of 255."),
    ] = 64,
) -> None:
    """Make an image folder from files on this machine: words drawn in every font (the font is the
    class), or the images in idx files (for Fashion-MNIST, Debian's dataset-fashion-mnist)."""
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
