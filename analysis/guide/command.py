"""What `sweep tables` does for the Guide: from measurements to its analyses, in any format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from analysis import batchnorm, command, tuned
from analysis.command import FORMS, Output, Source
from analysis.formats import as_text
from analysis.guide.audit import report
from analysis.guide.compare import COMPARED
from analysis.guide.design import Cell, cell_of
from analysis.guide.measurements import published, read
from analysis.guide.own import Joined, of_runs, with_own
from analysis.guide.tables import ANALYSES, USUAL, lay_out, missing
from analysis.provenance import versions
from analysis.results import Results
from analysis.tidy import comma_separated, export_frame
from core.config import ConfigError, nearest


@dataclass(frozen=True)
class Measured:
    """Measurements and where they come from."""

    frame: pd.DataFrame
    results: Results | None = None
    """The runs behind them; None for CSV files."""
    paths: tuple[str, ...] = ()
    """The CSV files; () for runs."""

    @classmethod
    def store(cls, root: str | Path, manifest: Sequence[Mapping[str, Any]] | None = None) -> Self:
        """The runs of a manifest, or all of a store. Raises ConfigError if there are none."""
        results = Results(root, manifest)
        return cls(of_runs(results), results)

    @classmethod
    def files(
        cls, paths: Sequence[str | Path], manifest: Sequence[Mapping[str, Any]] | None = None
    ) -> Self:
        """CSV files with the columns of the published one, or folders of them. manifest: of a grid,
        whose cells are expected. Raises ConfigError for a bad file."""
        files = [
            file
            for path in map(Path, paths)
            for file in (sorted(path.glob("*.csv")) if path.is_dir() else [path])
        ]
        if not files:
            raise ConfigError(f"--from: no CSV files in {', '.join(map(str, paths))}")
        asked = None if manifest is None else cells_of(manifest)
        return cls(read(files, asked), None, tuple(map(str, files)))

    @classmethod
    def shipped(cls) -> Self:
        """The published measurements."""
        return cls(published())


def cells_of(manifest: Iterable[Mapping[str, Any]]) -> list[Cell]:
    """The cells of the runs in a manifest."""
    return [cell_of(row["config"], row["setting"]) for row in manifest]


def tables(
    source: Measured,
    form: str = "markdown",
    *,
    names: Sequence[str] = (),
    compare: bool = False,
) -> Output:
    """The analyses `names`, by default all except the measurements themselves.

    form: markdown, csv, latex, or tidy (for one analysis, with all digits). compare: show ours
    beside the published numbers of the same cells. Raises ConfigError for unknown names.
    """
    if form not in FORMS:
        raise ConfigError(f"--format: unknown format '{form}'{nearest(form, FORMS)}")
    known, frame = (COMPARED if compare else ANALYSES), source.frame
    if compare and source.results:
        frame = of_runs(source.results, as_published=True)
    for name in names:
        if name not in known:
            what = "no published counterpart of" if name in ANALYSES else "unknown table"
            raise ConfigError(f"--table: {what} '{name}'{nearest(name, known, shown=len(known))}")
    chosen = names or tuple(COMPARED if compare else USUAL)
    remarks = (*missing(frame), *_flags(source))
    complete = _complete(frame)
    if form == "tidy":
        if len(chosen) != 1:
            raise ConfigError(f"--format tidy: expected one --table of {', '.join(known)}")
        tidy = comma_separated(known[chosen[0]].frame(frame))
        return Output(tidy, complete, remarks)
    found = [table for name in chosen for table in lay_out(known[name], frame)]
    return Output(as_text(found, form), complete, remarks, tuple(found))


def _flags(source: Measured) -> list[str]:
    """Warnings about the hyper-parameters and batch statistics of runs."""
    if source.results is None:
        return []
    few, uneven = tuned.sentence(source.results), batchnorm.sentence(source.results)
    named = {"few trials": few, "batchnorm": uneven}
    return [f"{name}: {sentence}" for name, sentence in named.items() if sentence]


def check(source: Measured) -> Output:
    """The audit of these measurements and of the published conclusions, as Markdown."""
    return Output(report(source.frame), _complete(source.frame), tuple(missing(source.frame)))


def export(source: Measured, path: Path) -> Output:
    """The measurements as .parquet or .csv, by the suffix of `path`. Raises ConfigError for another
    suffix."""
    written = export_frame(source.frame, path)
    return Output(str(written), _complete(source.frame), tuple(missing(source.frame)))


def provenance(source: Measured) -> dict[str, Any]:
    """The content of the provenance file beside the tables: plain data for `json.dumps`."""
    if source.results:
        return command.provenance(Source(source.results.values, source.results))
    return {"files": list(source.paths), "cells": len(source.frame), "versions": versions()}


def _complete(frame: pd.DataFrame) -> bool:
    return bool((frame["state"] == "done").all())


def known_measurements(root: Path, metrics: Sequence[str]) -> Joined:
    """The published measurements, with those of a store's runs in place of the same cells if they
    have these metrics."""
    known = published()
    try:
        return with_own(known, Results(root), metrics)
    except ConfigError:  # the store has no run
        return Joined(known)
