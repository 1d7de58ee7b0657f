"""Where every number comes from: `why` for people, `sidecar` for programs."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pandas as pd

from analysis.cells import Cell, Key, group_cells, sources
from analysis.diagnosis import diagnose, standard_runs
from analysis.intervals import Flags
from analysis.results import Results
from analysis.rounding import half_up
from analysis.tables import cell_name, number
from analysis.tuned import origin
from core.config import ConfigError, nearest

Row = dict[str, Any]

SCHEMA = 1
PARTS = ("model", "dataset", "setting", "metric")
SOURCE = [
    *("seed", "value", "n", "state", "reason", "attack", "split", "split_images"),
    "zero_gradient_images",
    *("run_id", "eval_id", "commit", "source"),
]


def why(question: str, frame: pd.DataFrame, results: Results | None = None) -> str:
    """The runs, interval and warnings behind the cells 'SWIN/Cars/sched/expected', at every eps_g
    or at one ('SWIN/Cars/sched/expected@8').

    results: the store that the frame comes from, None for CSV files. Raises ConfigError for a name
    that no cell has.
    """
    found = group_cells(frame)
    flags = Flags(results, frame) if results else None
    rows = sources(frame)
    keys = _asked(question, found)
    asked = {row["run_id"] for key in keys for row in rows[key]}
    signs = _diagnoses(results, asked) if results else {}
    for run in results.runs if results else ():
        if run.dir.id in asked and (text := origin(run)):
            signs[run.dir.id].insert(0, f"seed {run.config['seed']}: {text}")
        if run.dir.id in asked and run.batchnorm_images:
            text = f"BatchNorm over {' and '.join(map(str, run.batchnorm_images))} images"
            signs[run.dir.id].append(f"seed {run.config['seed']}: {text}")
    return "\n\n".join(_explain(key, found, rows[key], flags, signs) for key in keys) + "\n"


def _asked(question: str, found: Mapping[Key, Cell]) -> list[Key]:
    path, _, strength = question.partition("@")
    names = [part.strip() for part in path.split("/")]
    if len(names) != len(PARTS):
        raise ConfigError(f"--why: expected model/dataset/setting/metric[@8], got '{question}'")
    keys = list(found)
    for part, name in zip(PARTS, names, strict=True):
        known = dict.fromkeys(str(getattr(key, part)) for key in keys)
        keys = [key for key in keys if str(getattr(key, part)).lower() == name.lower()]
        if not keys:
            raise ConfigError(f"--why: no {part} '{name}'{nearest(name, known)}")
    wanted = strength.strip()  # '8' alone is 8/255
    at = [key for key in keys if not wanted or str(key.strength) in (wanted, f"{wanted}/255")]
    if not at:
        known = dict.fromkeys(str(key.strength) for key in keys)
        raise ConfigError(f"--why: no such cell at {strength} (expected {', '.join(known)})")
    return at


def _diagnoses(results: Results, run_ids: set[str]) -> dict[str, list[str]]:
    """Run id -> the signatures of failure it shows, one sentence each."""
    standard = standard_runs(results.runs)
    return {
        run.dir.id: [
            f"seed {run.config['seed']}: {one}" for one in diagnose(run, standard.get(run.dir.id))
        ]
        for run in results.runs
        if run.dir.id in run_ids
    }


def _explain(
    key: Key,
    found: Mapping[Key, Cell],
    rows: list[Row],
    flags: Flags | None,
    diagnoses: Mapping[str, list[str]],
) -> str:
    cell = found[key]
    images = f", n = {' to '.join(map(str, cell.n))} images" if cell.n else ""
    attacks = " and ".join(
        attack for attack in dict.fromkeys(row["attack"] for row in rows) if attack
    )
    under = f" under {attacks}" if attacks else ""
    lines = [f"{cell_name(key)}, {key.metric}{under}: {number(cell)}{images}"]
    if flags and cell.measured:
        interval = flags.interval(key)
        lines.append(f"  95 % interval [{interval.low:.2f}, {interval.high:.2f}] {interval.method}")
        lines += _against_fix(key, found, flags)
    lines += ["  " + _origin(row) for row in rows]
    lines += [f"  {text}" for row in rows for text in diagnoses.get(row["run_id"], ())]
    return "\n".join(lines)


def _against_fix(key: Key, found: Mapping[Key, Cell], flags: Flags) -> list[str]:
    other = key._replace(setting="fix")
    if key.setting in ("fix", "standard") or other not in found or not found[other].measured:
        return []
    gap = flags.difference(other, key)
    sure = "significant" if gap.significant else "not significant"
    text = (
        f"  minus fix: {half_up(gap.value)} points, 95 % interval [{gap.low:.2f}, {gap.high:.2f}] "
        f"paired bootstrap over {gap.n} images, {sure}"
    )
    return [text + (f"; McNemar p = {gap.mcnemar:.3g}" if gap.mcnemar is not None else "")]


def _origin(row: Row) -> str:
    value: str = row["state"] if pd.isna(row["value"]) else str(half_up(row["value"]))
    reason = f" ({row['reason']})" if row["reason"] else ""
    if not row["run_id"]:
        return f"{value}{reason} from {row['source']}"
    text = f"seed {row['seed']}: {value}{reason}, run {row['run_id']} (also its W&B id)"
    if pd.isna(row["n"]):
        return text
    return (
        f"{text}\n    {row['attack']}, {row['n']} of the {row['split_images']} {row['split']} "
        f"images, code {row['commit'] or 'unknown'}, {row['source']}"
    )


def sidecar(
    frame: pd.DataFrame, violations: list[str], results: Results | None = None
) -> dict[str, Any]:
    """Everything behind the tables as plain data: each cell with its sources, violated gates, and
    the versions of the packages."""
    rows = sources(frame)
    return {
        "schema": SCHEMA,
        "store": str(results.store.root) if results else None,
        "cells": [_cell(key, cell, rows[key]) for key, cell in group_cells(frame).items()],
        "violations": violations,
        "batchnorm_images": {
            run.dir.id: run.batchnorm_images
            for run in (results.runs if results else ())
            if run.batchnorm_images
        },
        "tuned": {run.dir.id: run.tuned for run in (results.runs if results else ()) if run.tuned},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of the packages that tables are computed with."""
    packages = {name: version(name) for name in ("epsweep", "pandas", "numpy", "scipy")}
    return {"python": platform.python_version(), **packages}


def _cell(key: Key, cell: Cell, rows: list[Row]) -> dict[str, Any]:
    return {
        **key._asdict(),
        "epsilon_g": str(key.strength),
        "value": cell.value,
        "std": cell.std,
        "seeds": cell.measured,
        "seeds_asked": cell.asked,
        "images": list(cell.n),
        "complete": cell.complete,
        "state": cell.state,
        "reason": cell.reason,
        "sources": [
            {name: None if pd.isna(row[name]) else row[name] for name in SOURCE} for row in rows
        ],
    }
