"""Runs of a store -> the same frame of measurements as from the published file."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.guide.design import CELL, METRICS, Cell, cell_of
from analysis.guide.measurements import Row, build, records
from analysis.results import Results
from analysis.runs import Run
from core.config import ConfigError, Strength

STRENGTH = Strength.parse("4/255", "linf")
"""The strength that the published runs are trained against."""


def of_runs(results: Results, *, mixed: bool = False) -> pd.DataFrame:
    """The measurements of a store's runs, averaged over the seeds of a configuration.

    mixed: also average runs of one configuration that differ in more than the seed. Raises
    ConfigError for such runs otherwise.
    """
    groups: dict[Cell, list[Run]] = {}
    for run in results.runs:
        groups.setdefault(cell_of(run.config, run.setting), []).append(run)
    measured = _measured(results.values)
    rows = []
    for cell, runs in groups.items():
        seeds = [run.config["seed"] for run in runs]
        if len({*seeds}) < len(seeds) and not mixed:
            same = ", ".join(run.dir.id for run in runs[:2])
            raise ConfigError(
                f"{', '.join(cell)}: expected one run for each seed, got {same}, ...; select some "
                "with --only"
            )
        rows.append(_averaged(cell, [measured[run.dir.id] for run in runs]))
    return build(rows)


def _measured(values: pd.DataFrame) -> dict[str, Row]:
    """Run id -> its five accuracies, from rows of `analysis.load`. If there are several attacks in
    one norm, AutoAttack counts."""
    slots = values["metric"].map({"clean": "clean", "corrupted": "common"})
    slots = slots.where(values["metric"] != "adv", values["eval_norm"])
    ours = values.assign(slot=slots)[slots.isin(METRICS)].sort_values(
        ["kind", "eval_norm"],
        key=lambda column: ~column.isin(("autoattack", "linf")),
        kind="stable",
    )
    first = ours.drop_duplicates(["run_id", "slot"])
    runs = pd.Index(values["run_id"].unique(), name="run_id")
    table = first.pivot(index="run_id", columns="slot", values="value")
    table = table.reindex(index=runs, columns=list(METRICS))
    counts = first.groupby("run_id")["n"].min()
    slots_of = first.groupby("run_id")["slot"].agg(set).to_dict()
    broken = first[first["state"] != "done"].drop_duplicates("run_id").set_index("run_id")
    states = {row["run_id"]: row for row in records(broken[["state", "reason"]].reset_index())}
    found = {}
    for row in records((table / 100).round(12).join(counts).reset_index()):
        lacking = [name for name in METRICS if name not in slots_of.get(row["run_id"], ())]
        state, reason = "done", ""
        if row["run_id"] in states:
            state, reason = (states[row["run_id"]][name] for name in ("state", "reason"))
        elif lacking:
            state, reason = "missing", f"no evaluation gives {', '.join(lacking)}"
        found[row["run_id"]] = {**row, "state": state, "reason": reason}
    return found


def _averaged(cell: Cell, rows: Sequence[Row]) -> Row:
    worst = next((row for row in rows if row["state"] != "done"), rows[0])
    table = pd.DataFrame([{name: row[name] for name in METRICS} for row in rows], dtype=float)
    means = table.mean(skipna=False)
    return {
        **cell._asdict(),
        **{name: means[name] for name in METRICS},
        **{name: worst[name] for name in ("state", "reason", "n", "run_id")},
    }


def with_own(frame: pd.DataFrame, results: Results) -> tuple[pd.DataFrame, int]:
    """(the measurements, with complete ones of a store's runs in place of the same cells; how many
    of them are the store's). Only runs trained at the published strength count."""
    runs = [run for run in results.runs if run.epsilon_g == STRENGTH]
    if not runs:
        return frame, 0
    own = of_runs(results.only(runs), mixed=True)
    own = own[own["state"] == "done"]
    joined = pd.concat([own, frame]).drop_duplicates(CELL)
    return joined.reset_index(drop=True), len(own)
