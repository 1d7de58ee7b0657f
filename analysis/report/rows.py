"""The rows of the report's tables: results by cell, runs, and what a reader may filter by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.cells import Cell, Key, group_cells, strengths
from analysis.intervals import Flags
from analysis.names import (
    METRICS,
    datasets_in_order,
    models_in_order,
    paper_order,
    settings_in_order,
)
from analysis.paper import one_evaluation
from analysis.report.facts import seconds
from analysis.results import Results
from analysis.rounding import half_up
from analysis.runs import Run
from analysis.tables import ABSENT, DAGGER, number, winners
from core.config import ConfigError, Strength

Row = dict[str, Any]
FIELDS = ("model", "dataset", "strength", "setting", "variant")
CONSTANT = "one label for every image: no result"
NOTHING: Row = {"text": ABSENT, "sort": "", "bold": False, "mark": "", "note": "", "interval": ""}


def filters(results: Results) -> list[tuple[str, list[str]]]:
    """Name -> options of the filters above the tables."""
    table, values = results.table, results.values
    return [
        ("Model", models_in_order(table["model"])),
        ("Dataset", datasets_in_order(table["dataset"])),
        ("eps_g", [str(strength) for strength in strengths(values) if strength]),
        ("Setting", settings_in_order(table["setting"])),
        ("State", sorted(set(table["state"]) | set(values["state"]))),
    ]


def cell_rows(results: Results) -> list[Row]:
    """One row per (model, dataset, eps_g, setting), its metrics side by side."""
    values = one_evaluation(results.values)
    found = group_cells(values)
    groups: dict[tuple[Any, ...], dict[str, Key]] = {}
    for key in found:
        groups.setdefault(tuple(getattr(key, f) for f in FIELDS), {})[key.metric] = key
    best, flags = winners(found), Flags(results, values)
    return [
        _cell_row(name, groups[name], found, best, flags) for name in paper_order(groups, FIELDS)
    ]


def _cell_row(
    name: tuple[Any, ...],
    metrics: Mapping[str, Key],
    found: Mapping[Key, Cell],
    best: set[Key],
    flags: Flags,
) -> Row:
    parts = [found[metric] for metric in metrics.values()]
    worst = next((part for part in parts if not part.complete), parts[0])
    entries = [
        _entry(metrics[metric], found[metrics[metric]], best, flags)
        if metric in metrics
        else NOTHING
        for metric in METRICS
    ]
    return {
        **_named(*name),
        "entries": entries,
        "n": " to ".join(map(str, worst.n)),
        "seeds": f"{worst.measured}/{worst.asked}",
        "state": "done" if worst.complete else worst.state,
        "reason": worst.reason,
    }


def _named(model: str, dataset: str, strength: Strength, setting: str, variant: str) -> Row:
    return {
        "model": model,
        "dataset": dataset,
        "strength": strength.in_255ths,
        "eps_g": str(strength) if strength else ABSENT,
        "setting": setting,
        "name": f"{setting} [{variant}]" if variant else setting,
    }


def _entry(key: Key, cell: Cell, best: set[Key], flags: Flags) -> Row:
    return {
        "text": number(cell),
        "sort": "" if cell.value is None else cell.value,
        "bold": key in best,
        "mark": "" if cell.complete and not cell.constant else DAGGER,
        "note": CONSTANT if cell.constant and cell.complete else f"{cell.state}: {cell.reason}",
        "interval": _interval(key, cell, flags),
    }


def _interval(key: Key, cell: Cell, flags: Flags) -> str:
    """95 % over images for a single seed; several seeds show their own spread."""
    if not cell.complete or cell.asked > 1:
        return ""
    try:
        interval = flags.interval(key)
    except ConfigError:
        return "no flags"
    return f"{interval.low:.1f} to {interval.high:.1f}"


def run_rows(results: Results, runs: Sequence[Run]) -> list[Row]:
    """One row for each of `runs`."""
    accuracy = dict(_accuracies(results.values))
    return [_run_row(run, accuracy) for run in runs]


def _accuracies(values: pd.DataFrame) -> Iterator[tuple[tuple[str, str], str]]:
    """(run id, metric) -> its accuracy, where the run has a single one."""
    chosen = one_evaluation(values)
    measured: Any = chosen[chosen["value"].notna()]
    for names, found in measured.groupby(["run_id", "metric"])["value"].unique().items():
        if len(found) == 1:
            yield names, str(half_up(found[0]))


def _run_row(run: Run, accuracy: Mapping[tuple[str, str], str]) -> Row:
    about = run.about
    total = int(run.config["epochs"])
    delay = run.delay
    return {
        **_named(*({**about, "strength": run.epsilon_g}[field] for field in FIELDS)),
        "short": run.dir.id.rsplit("-", 1)[-1][:8],
        "seed": about["seed"],
        "clean": accuracy.get((run.dir.id, "clean"), ""),
        "expected": accuracy.get((run.dir.id, "expected"), ""),
        "delay": "" if delay is None else "never" if delay >= total else str(delay),
        "delay_sort": "" if delay is None else delay,
        "minutes": str(half_up(sum(map(seconds, run.attempts)) / 60, 1)) if run.result else "",
        "state": run.state,
    }
