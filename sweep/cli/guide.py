"""The sister benchmark (arXiv 2508.14079) on the command line: when its tables are meant, and where
their measurements come from.
"""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from core.config import ConfigError
from core.store.files import write_text
from core.store.folders import Store
from sweep.cli.options import look, manifest, tuned_grid

if TYPE_CHECKING:
    from analysis.command import Output
    from analysis.guide.command import Measured

TABLES = (
    *("ranking", "medals", "best", "means", "heatmap", "correlation", "proxies", "wins", "effects"),
    *("letters", "interactions", "switch", "top", "measurements"),
)
"""Those of `analysis.guide`, which takes a second to import."""
NAME = "guide"
"""What a grid has among its `tables` to be shown by these."""


def is_meant(grid: str | None, names: list[str], files: list[Path] | None) -> bool:
    """Whether the sister benchmark is: by the tables, by the grid, or else by the files."""
    from sweep.grid import load_grid

    if any(name in TABLES for name in names):
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
    """Files, of the cells of a grid if there is one; or the runs of that grid. published: the
    shipped numbers rather than runs. Raises ConfigError for neither."""
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
    store = Store.at(root)
    seen = look(tuned_grid(grid, store), store, only)
    return Measured.store(store.root, manifest([status.run for status in seen.statuses]))


def tables(
    measured: Measured,
    names: list[str],
    form: str | None,
    output: Path | None,
    *,
    compare: bool,
    check: bool,
) -> Output:
    """The tables asked for, or the audit, as text; a data frame, and where numbers come from, are
    written. Raises ConfigError."""
    from analysis.guide import command

    if check:
        return command.check(measured)
    if form == "dataframe":
        if output is None:
            raise ConfigError("--format dataframe: expected --output FILE.parquet or FILE.csv")
        return command.export(measured, output)
    made = command.tables(measured, form or "markdown", names=names, compare=compare)
    if output:
        sidecar = output.with_name(f"{output.name}.provenance.json")
        write_text(sidecar, dumps(command.provenance(measured), indent=1) + "\n")
    return made
