"""What verbs print: the two consoles, and lines that several verbs have in common."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from core.config import ConfigError
from core.store.files import write_text
from core.store.folders import Store

if TYPE_CHECKING:
    from slurm.profile import Profile
    from sweep.estimate.cost import Cost
    from sweep.grid import Grid
    from sweep.state.plan import Plan
    from sweep.summary import Published

WIDE = 160
"""Columns when the output is a file or a pipe, so that tables are not squeezed."""

# No markup: rich would drop `[old]` from the path `/data/[old]`.
_width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
out = Console(width=_width, markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)


def print_plan(loaded: Grid, seen: Plan, cost: Cost, published: Published | None = None) -> None:
    from sweep import summary

    out.print(summary.of(loaded, seen, cost, published))


def print_warnings(loaded: Grid) -> None:
    """Print what looks wrong with a grid but does not stop it from running."""
    for line in loaded.warnings:
        err.print(Text(f"warning: {line}", style="yellow"), soft_wrap=True)


def print_lacks(seen: Plan, store: Store, profile: Profile) -> None:
    from sweep import launcher

    try:
        lines = launcher.lacks(seen, store, profile)
    except ConfigError as error:  # the profile uses a variable that only the cluster sets
        lines = [*error.lines]
    for line in lines:
        out.print(Text(f"missing: {line}", style="yellow"), soft_wrap=True)


def print_scripts(loaded: Grid, seen: Plan, store: Store, profile: Profile) -> None:
    from sweep.state.plan import LAUNCHABLE
    from sweep.submit import backends
    from sweep.submit.order import Runs

    backend, runs = backends.of(profile.executor), seen.of(LAUNCHABLE)
    order = Runs(store.sweep(loaded.name), store, profile, runs, seen.behind)
    for script in backend.script(order):
        typer.echo(script)
        verdict = backend.verdict(script, profile)
        if verdict:
            typer.echo(f"# {verdict}")


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1))


def frame_file(output: Path | None) -> Path:
    """The file for a data frame. Raises ConfigError if none is given."""
    if output is None:
        raise ConfigError("--format dataframe: expected --output FILE.parquet or FILE.csv")
    return output


def write_sidecar(output: Path, provenance: object) -> None:
    """Write where the numbers of `output` come from, beside it."""
    sidecar = output.with_name(f"{output.name}.provenance.json")
    write_text(sidecar, json.dumps(provenance, indent=1) + "\n")
