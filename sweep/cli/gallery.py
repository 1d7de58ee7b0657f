"""The verb pictures: a page of images under attack and what networks of runs see in them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from core.config import ConfigError
from core.store.folders import Store
from sweep.cli.options import LOOK, Root
from sweep.cli.printing import err, out

verbs = typer.Typer()
MOST = 50
"""Maximum number of images in a part of the page: each has two pictures for every run and
strength."""


@verbs.command(rich_help_panel=LOOK)
def pictures(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN", help="Run ids, or their first characters.")
    ],
    root: Root = None,
    strengths: Annotated[
        list[str] | None,
        typer.Option(
            "--strength",
            metavar="STRENGTH...",
            help="Strengths to show, of those in the evaluation [default: those nearest to half, "
            "one and two times the training strength]. An image counts as kept or lost at the "
            "first of them [default: at the training strength].",
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(help="Which evaluation to use, if the runs have several in common."),
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            "--images", min=1, max=MOST, help="Number of images in each part of the page."
        ),
    ] = 6,
    wandb: Annotated[
        bool,
        typer.Option("--wandb", help="Send images and confusions to W&B, too, as a separate run."),
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
) -> None:
    """Write an HTML page of images under attack: what runs see in them, keep and lose."""
    from analysis.report import gallery
    from analysis.report.pictures import Subject
    from core.run import pictured
    from core.run.trained import load_trained
    from core.store import tracking
    from sweep.state import run_logs

    store = Store.at(root)
    folders = [run_logs.find(store, name) for name in runs]
    if len({folder.id for folder in folders}) < len(folders):
        raise ConfigError("RUN: expected each run once")
    subject = Subject.of(folders, evaluation=evaluation, strengths=strengths or (), most=images)
    seen: list[pictured.Seen] = []
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("attacking images", total=len(folders))
        for folder in folders:
            shown = pictured.images_of(folder, store, subject.config["split"], subject.places)
            if not seen:
                first = shown
            subject.check_same(folder, first.pixels.numpy(), shown.pixels.numpy())
            network = load_trained(folder, store)
            seen.append(pictured.see(network, shown, subject.shown, steps=subject.steps))
            bar.advance(task)
    looked = gallery.Looked(first.pixels.numpy(), seen, first.names)
    name = hashlib.sha256("\n".join(folder.id for folder in folders).encode()).hexdigest()[:8]
    page = output or store.root / "reports" / "pictures" / f"{folders[0].id}-{name}.html"
    out.print(str(gallery.write(subject, looked, page)), soft_wrap=True)
    if wandb:
        album = gallery.Album(subject, looked)
        of = {folder.id: [*album.captioned(i)] for i, folder in enumerate(folders)}
        maps = {f"{folder.id}/confusion": [*album.confused(i)] for i, folder in enumerate(folders)}
        of |= {key: confusions for key, confusions in maps.items() if confusions}
        out.print(tracking.show(f"pictures-{name}", of, page.parent), soft_wrap=True)
