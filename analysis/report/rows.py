"""The rows of the report's tables (results by cell, and runs), and the filters above them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.cells import Cell, Key, strengths
from analysis.choice import one_evaluation
from analysis.guide import design
from analysis.intervals import Flags
from analysis.names import (
    METRICS,
    datasets_in_order,
    models_in_order,
    paper_order,
    settings_in_order,
)
from analysis.report.digest import Digests
from analysis.results import Results
from analysis.rounding import half_up
from analysis.runs import Row, Run
from analysis.tables import ABSENT, DAGGER, number, winners
from core.config import ConfigError, Strength

FIELDS = ("model", "dataset", "strength", "setting", "variant")
CONSTANT = "one label for every image: no result"
NAMES = {
    "model": "Model",
    "dataset": "Dataset",
    "eps_g": "eps_g",
    "setting": "Setting",
    "variant": "Variant",
}
"""Key -> title of the columns that identify a row, by which tables are filtered and grouped."""


def filters(results: Results) -> list[tuple[str, str, list[str]]]:
    """(key, title, options) of the filters above the tables."""
    table, values = results.table, results.values
    options = {
        "model": models_in_order(table["model"]),
        "dataset": datasets_in_order(table["dataset"]),
        "eps_g": [str(strength) for strength in strengths(values) if strength],
        "setting": settings_in_order(table["setting"]),
        "variant": sorted(filter(None, set(table["variant"]))),
        "state": sorted(set(table["state"]) | set(values["state"])),
    }
    return [(key, title_of(key), found) for key, found in options.items() if found]


def title_of(key: str) -> str:
    return NAMES.get(key, key.capitalize())


def cells_table(digests: Digests, more: Mapping[str, Mapping[str, str]]) -> Row:
    """A table with one row per (model, dataset, eps_g, setting) and a column per metric. more: run
    id -> column -> text, further numbers of its row, the same columns for all."""
    found = digests.found
    beside = {_names(run): more[run.dir.id] for run in digests.runs if run.dir.id in more}
    further = [*next(iter(more.values()), ())]
    groups: dict[tuple[Any, ...], dict[str, Key]] = {}
    for key in found:
        groups.setdefault(tuple(getattr(key, f) for f in FIELDS), {})[key.metric] = key
    best = winners(found)
    judged = one_evaluation(digests.results.values)
    flags = Flags(digests.results, judged, digests.evaluation)
    rows = [
        _cell_row(
            *(name, groups[name], digests, best, flags),
            {**dict.fromkeys(further, ABSENT), **beside.get(name, {})},
        )
        for name in paper_order(groups, FIELDS)
    ]
    return _table("results", rows, (*digests.metrics, *further, "n", "seeds"), ("reason",))


def _table(what: str, rows: list[Row], numbers: tuple[str, ...], hidden: tuple[str, ...]) -> Row:
    """A table for the page's script. what: the name of its rows. numbers: keys of columns with
    numbers. hidden: keys of columns that are searched and exported, but not shown."""
    keys = list(rows[0]) if rows else []
    if rows and not any(row["variant"] for row in rows):
        hidden += ("variant",)
    columns = [
        {
            "key": key,
            "title": key if key in (*METRICS, *design.METRICS, "n") else title_of(key),
            "number": key in numbers,
            "hidden": key in hidden,
        }
        for key in keys
    ]
    return {"what": what, "columns": columns, "rows": [list(row.values()) for row in rows]}


def _cell_row(
    name: tuple[Any, ...],
    metrics: Mapping[str, Key],
    digests: Digests,
    best: set[Key],
    flags: Flags,
    more: Mapping[str, str],
) -> Row:
    found = digests.found
    parts = [found[key] for name, key in metrics.items() if name in digests.metrics]
    worst = next((part for part in parts if not part.complete), parts[0])
    entries = {
        metric: _entry(metrics[metric], found[metrics[metric]], best, flags)
        if metric in metrics
        else ABSENT
        for metric in digests.metrics
    }
    return {
        **_named(*name),
        **entries,
        **more,
        "n": " to ".join(map(str, worst.n)),
        "seeds": f"{worst.measured}/{worst.asked}",
        "state": "done" if worst.complete else worst.state,
        "reason": worst.reason,
    }


def _named(model: str, dataset: str, strength: Strength, setting: str, variant: str) -> Row:
    eps_g = str(strength) if strength else ABSENT
    return dict(zip(NAMES, (model, dataset, eps_g, setting, variant), strict=True))


def _entry(key: Key, cell: Cell, best: set[Key], flags: Flags) -> Row:
    """A number as an object for the page's script, without empty fields."""
    note = CONSTANT if cell.constant and cell.complete else f"{cell.state}: {cell.reason}"
    told = not cell.complete or cell.constant
    entry = {
        "text": number(cell),
        "bold": int(key in best),
        "mark": DAGGER if told else "",
        "note": note if told else "",
        "interval": _interval(key, cell, flags),
    }
    return {name: value for name, value in entry.items() if value}


def _interval(key: Key, cell: Cell, flags: Flags) -> str:
    """The 95 % interval over images for a single seed; '' for several, which show their spread."""
    if not cell.complete or cell.asked > 1:
        return ""
    try:
        interval = flags.interval(key)
    except ConfigError:
        return "no flags"
    return f"{interval.low:.1f} to {interval.high:.1f}"


def runs_table(digests: Digests) -> Row:
    """A table with one row per run."""
    results = digests.results
    chosen = one_evaluation(results.values)
    accuracy = _accuracies(chosen[chosen["metric"].isin(digests.metrics)])
    table = results.table
    known = table["delay"].notna()
    delays = dict(zip(table["run_id"][known], table["delay"][known].astype(int), strict=True))
    digits = 8 if len({short(run, 8) for run in digests.runs}) == len(digests.runs) else 16
    rows = [
        {"run": short(run, digits)} | _run_row(run, digests, accuracy, delays.get(run.dir.id))
        for run in digests.runs
    ]
    numbers = ("seed", *digests.metrics, "delay", "minutes")
    return _table("runs", rows, numbers, ("id", "reason"))


def _accuracies(values: pd.DataFrame) -> dict[tuple[str, str], str]:
    """(run id, metric) -> accuracy as text, unless the run has several different ones."""
    measured = values[values["value"].notna()]
    found: dict[tuple[str, str], set[float]] = {}
    # Not by groupby, which takes 0.5 s for 30,000 rows.
    columns = (measured[name].tolist() for name in ("run_id", "metric", "value"))
    for run, metric, value in zip(*columns, strict=True):
        found.setdefault((run, metric), set()).add(value)
    return {names: str(half_up(min(one))) for names, one in found.items() if len(one) == 1}


def _run_row(
    run: Run, digests: Digests, accuracy: Mapping[tuple[str, str], str], delay: int | None
) -> Row:
    about, total = run.about, int(run.config["epochs"])
    minutes = digests.counted[run.dir.id]["seconds"] / 60
    state, reason = digests.states[run.dir.id]
    return {
        "state": state,
        **_named(*_names(run)),
        "seed": about["seed"],
        **{metric: accuracy.get((run.dir.id, metric), "") for metric in digests.metrics},
        "delay": "" if delay is None else "never" if delay >= total else delay,
        "minutes": f"{minutes:.1f}" if state == "done" else "",
        "reason": reason,
        "id": run.dir.id,
    }


def _names(run: Run) -> tuple[Any, ...]:
    """The run's values of FIELDS."""
    return tuple({**run.about, "strength": run.epsilon_g}[field] for field in FIELDS)


def short(run: Run, digits: int) -> str:
    """The run's name on the page: the beginning of its hash."""
    return run.dir.id.rsplit("-", 1)[-1][:digits]
