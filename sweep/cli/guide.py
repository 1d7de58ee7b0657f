"""The Guide (the sister benchmark, arXiv 2508.14079) on the command line: decides whether a command
asks for its tables and where their numbers come from, adds published values to plans, and has the
verb suggest-backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from core.config import ConfigError, nearest
from core.errors import counted
from core.store.folders import Store
from sweep.cli.opening import manifest, opened
from sweep.cli.options import LOOK, Json, ProfileOption, Root
from sweep.cli.printing import frame_file, out, print_json, write_sidecar

if TYPE_CHECKING:
    from analysis.command import Output
    from analysis.guide.command import Measured
    from slurm.profile import Profile
    from sweep.grid import Grid
    from sweep.state.plan import Plan
    from sweep.summary import Published

TABLES = (
    *("ranking", "medals", "best", "means", "heatmap", "correlation", "proxies", "wins", "effects"),
    *("letters", "interactions", "switch", "top", "measurements"),
)
"""Repeats the names in `analysis.guide`, which takes a second to import."""
FIGURES = ("heatmap", "plane", "radar", "proxies", "levels")
THREATS = ("clean", "linf", "l2", "l1", "common")
NAME = "guide"
"""A grid that lists this among its `tables` is shown by the Guide's tables."""

verbs = typer.Typer()


def is_meant(grid: str | None, names: Sequence[str], files: list[Path] | None) -> bool:
    """Whether a command asks for the Guide: by the names of tables or figures if there are any,
    else by the grid, else by the files."""
    from sweep.grid import load_grid

    if any(name in (*TABLES, *FIGURES) for name in names):
        return True
    if grid is not None:
        return not names and NAME in load_grid(grid).tables
    if not files:
        return False
    from analysis.guide.measurements import is_guide

    return all(map(is_guide, files))


def source(
    grid: str | None,
    root: Path | None,
    only: list[str] | None,
    files: list[Path] | None,
    *,
    published: bool = False,
) -> Measured:
    """The measurements in files (only the grid's cells if both are given), or those of the grid's
    runs. published: without files, the shipped numbers. Raises ConfigError if neither is given."""
    from analysis.guide.command import Measured
    from sweep.grid import load_grid, select_runs

    if published and not files:
        return Measured.shipped()
    if grid is None:
        if not files:
            raise ConfigError("expected a GRID, --from FILE.csv or both")
        return Measured.files(files)
    if files:
        return Measured.files(files, manifest(select_runs(load_grid(grid).runs, only or ())))
    store, _, seen = opened(grid, root, only)
    return Measured.store(store.root, manifest(seen.runs))


def tables(
    measured: Measured,
    names: list[str],
    form: str | None,
    output: Path | None,
    *,
    compare: bool,
    check: bool,
) -> Output:
    """The tables asked for, or with `check` the audit, as text. Form 'dataframe' writes the data
    frame to `output`; the other forms write only their provenance, beside it.

    Raises ConfigError for an unknown table or a missing output."""
    from analysis.guide import command

    if check:
        return command.check(measured)
    if form == "dataframe":
        return command.export(measured, frame_file(output))
    made = command.tables(measured, form or "markdown", names=names, compare=compare)
    if output:
        write_sidecar(output, command.provenance(measured))
    return made


def published(loaded: Grid, seen: Plan, metric: str) -> Published:
    """Published values for the runs of a plan. Raises ConfigError if there are none at all, or none
    of this metric."""
    from analysis.priors import find_published
    from sweep.summary import Published

    values = find_published(manifest(seen.runs), loaded.tables)
    known = [*dict.fromkeys(name for found in values.values() for name in found)]
    if not known:
        raise ConfigError(f"--published: no published values for the runs of {loaded.name}")
    if metric not in known:
        raise ConfigError(f"--published: unknown metric '{metric}'{nearest(metric, known)}")
    return Published(metric, values)


@verbs.command("suggest-backbone", rich_help_panel=LOOK)
def suggest_backbone(
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="A dataset, a folder of images, or any new name."),
    ] = "new",
    budget: Annotated[
        float | None,
        typer.Option("--budget", min=0, help="GPU-hours for all tries, evaluations included."),
    ] = None,
    threat: Annotated[
        list[str] | None,
        typer.Option(
            "--threat",
            metavar="ACCURACY...",
            help=f"Accuracies to weigh equally: {', '.join(THREATS)} [default: all].",
        ),
    ] = None,
    protocol: Annotated[
        str, typer.Option("--protocol", help="How to fine-tune, as in the Guide's tables.")
    ] = "FFT (50 epochs)",
    most: Annotated[int, typer.Option("--picks", min=1, help="Maximum number of suggestions.")] = 5,
    profile: ProfileOption = "local",
    root: Root = None,
    json: Json = False,
) -> None:
    """Suggest which backbones and losses to try first, from the Guide's published numbers and
    your own runs."""
    from analysis.guide import advice
    from analysis.guide.command import known_measurements
    from analysis.guide.design import our_dataset, published_dataset
    from sweep.launcher import load_profile

    for name in threat or ():
        if name not in THREATS:
            raise ConfigError(f"--threat: unknown accuracy '{name}'{nearest(name, THREATS)}")
    if not dataset.strip():
        raise ConfigError("DATASET: expected a name, got ''")
    dataset, metrics = our_dataset(dataset), tuple(dict.fromkeys(threat or THREATS))
    store = Store.at(root)
    frame, own, left_out = known_measurements(store.root, metrics)
    found = advice.advise(
        frame,
        hours_of(dataset, protocol, store, load_profile(profile)),
        protocol=protocol,
        dataset=published_dataset(dataset),
        metrics=metrics,
        budget=budget,
        most=most,
    )
    if json:
        print_json([one.to_dict() for one in found.picks])
        return
    out.print(advice.table(found, dataset), soft_wrap=True)
    more = f", {own} from your own runs" if own else ", all of them published"
    lacking = (
        f"{counted(number, 'finished run')} of yours left out: {reason}"
        for reason, number in left_out.items()
    )
    for remark in (f"from {len(frame)} measurements{more}", *lacking, *found.remarks):
        out.print(Text(remark), soft_wrap=True)


def hours_of(
    dataset: str, protocol: str, store: Store, profile: Profile
) -> dict[tuple[str, str], float | None]:
    """(published backbone, loss) -> GPU-hours of its run in the grid `guide` under a protocol.

    dataset: our name for it, or its folder; for one that is neither in the grid nor on this
    machine, the mean over the grid's datasets. None if a run has no estimate."""
    from analysis.guide.design import cell_of
    from sweep.estimate import cost
    from sweep.estimate.passes import sizes_of
    from sweep.grid import load_grid

    grid = load_grid(NAME)
    estimate = cost.of(profile, store, grid.about.get("hardware"))
    found: dict[tuple[str, str], list[float | None]] = {}
    names = {run.config.dataset for run in grid.runs}
    same = {"dataset": dataset} if sizes_of(dataset, store) else {}
    for run in grid.runs:
        cell = cell_of(run.config.to_dict(), run.setting)
        if cell.protocol != protocol or (dataset in names and run.config.dataset != dataset):
            continue
        hours = estimate.hours(run.config.model_copy(update=same), run.evals)
        found.setdefault((cell.backbone, cell.loss), []).append(hours)
    return {
        key: None if None in every else sum(filter(None, every)) / len(every)
        for key, every in found.items()
    }
