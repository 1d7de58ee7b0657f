"""The verb pictures: what networks of runs make of images under attack."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from core.config import ConfigError
from core.store.folders import Store
from sweep.cli.options import LOOK, Root, err, out

verbs = typer.Typer()
MOST = 50
"""Images in a part of the page: each has two pictures for every run and strength."""


@verbs.command(rich_help_panel=LOOK)
def pictures(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run ids, or the beginnings of some.")
    ],
    root: Root = None,
    strengths: Annotated[
        list[str] | None,
        typer.Option(
            "--strength",
            metavar="STRENGTH...",
            help="Of the evaluation's [default: half the training strength, it, and twice it]. By "
            "the first, images are kept or lost.",
        ),
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(help="Whose flags to take, if there are several that all runs have."),
    ] = None,
    images: Annotated[
        int, typer.Option("--images", min=1, max=MOST, help="In each part of the page.")
    ] = 6,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="Show them on W&B, too, as a run next to these.")
    ] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.")] = None,
) -> None:
    """One HTML page of images under attack: what runs see in them, keep, lose, and confuse."""
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
        out.print(tracking.show(f"pictures-{name}", of, page.parent), soft_wrap=True)
