"""Runs of a store -> the same frame of measurements as from the published file.

A user's grid may train and judge at other strengths than the Guide. Its own tables show that, but
beside published numbers only what was measured in the same way counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from analysis.guide.design import CELL, METRICS, Cell, cell_of
from analysis.guide.measurements import Row, build, records
from analysis.kinds import Config
from analysis.results import Results
from analysis.runs import Run
from core.config import ConfigError, Strength
from core.config.strength import Norm

STRENGTHS: Mapping[Norm, Strength] = {
    "linf": Strength.parse("4/255", "linf"),
    "l2": Strength.parse("2", "l2"),
    "l1": Strength.parse("75", "l1"),
}
"""Norm -> the published strength of AutoAttack. In linf it is also the one that runs train
against."""
SEVERITY = 3
"""The published severity of common corruptions."""


class Joined(NamedTuple):
    """Measurements, with those of own runs in place of the same cells."""

    frame: pd.DataFrame
    own: int = 0
    """How many of them come from own runs."""
    left_out: Mapping[str, int] = {}
    """Why finished runs are not among them -> how many."""


def of_runs(results: Results, *, as_published: bool = False) -> pd.DataFrame:
    """The measurements of a store's runs, averaged over the seeds of a configuration.

    as_published: what the paper measured differently counts as missing. Raises ConfigError for runs
    of one configuration that differ in more than the seed.
    """
    groups: dict[Cell, list[Run]] = defaultdict(list)
    for run in results.runs:
        groups[cell_of(run.config, run.setting)].append(run)
    measured = _measured_alike(results) if as_published else _measured(results.values)
    rows = []
    for cell, runs in groups.items():
        seeds = [run.config["seed"] for run in runs]
        if len({*seeds}) < len(seeds):
            same = ", ".join(run.dir.id for run in runs[:2])
            raise ConfigError(
                f"{', '.join(cell)}: expected one run for each seed, got {same}, ...; select some "
                "with --only"
            )
        rows.append(_averaged(cell, [measured[run.dir.id] for run in runs]))
    return build(rows)


def with_own(frame: pd.DataFrame, results: Results, metrics: Sequence[str] = METRICS) -> Joined:
    """The measurements, with those of a store's finished runs in place of the same cells: of runs
    that have these metrics, measured as published. All runs of a cell are averaged."""
    table, measured = results.table, _measured_alike(results)
    ended = {*table.loc[table["state"] == "done", "run_id"]}
    runs = [run for run in results.runs if run.dir.id in ended]
    groups, left_out = defaultdict(list), Counter[str]()
    for run in runs:
        row = measured[run.dir.id]
        if any(pd.isna(row[name]) for name in metrics):
            left_out[row["reason"]] += 1
        else:
            groups[cell_of(run.config, run.setting)].append({**row, "state": "done", "reason": ""})
    if not groups:
        return Joined(frame, 0, left_out)
    own = build(_averaged(cell, rows) for cell, rows in groups.items())
    joined = pd.concat([own, frame]).drop_duplicates(CELL).reset_index(drop=True)
    return Joined(joined, len(own), left_out)


def _measured_alike(results: Results) -> dict[str, Row]:
    """As `_measured`, without what the paper trained or evaluated differently."""
    values, runs = results.values, {run.dir.id: run for run in results.runs}
    # Evaluations with one id have the same config, so one record of each tells what it measures.
    made = values[values["value"].notna()].drop_duplicates("eval_id")
    unlike = [
        one.id
        for run_id, eval_id in zip(made["run_id"], made["eval_id"], strict=True)
        for one in runs[run_id].evaluations
        if one.id == eval_id and not _is_published(one.config)
    ]
    other = values["eval_id"].isin(unlike) & values["metric"].ne("clean")
    other |= values["split"].eq("val")
    found = _measured(values.assign(metric=values["metric"].mask(other, "")), " as published")
    for run in results.runs:
        if run.epsilon_g != STRENGTHS["linf"]:
            reason = f"trained against {run.epsilon_g}, published: {STRENGTHS['linf']}"
            broken = {"state": "missing", "reason": reason}
            found[run.dir.id] |= {**dict.fromkeys(METRICS), **broken}
    return found


def _is_published(config: Config) -> bool:
    """Whether the paper made an evaluation, too. config: as in its record."""
    match config.get("attack"):
        case "autoattack":
            norm, largest = config["norm"], config["epsilons"][-1]
            # In the norm of the training, the accuracy at the training's strength counts.
            return norm == "linf" or Strength.parse(largest, norm) == STRENGTHS.get(norm)
        case "corruptions":
            return bool(config["severity"] == SEVERITY)
        case _:
            return False


def _measured(values: pd.DataFrame, how: str = "") -> dict[str, Row]:
    """Run id -> its five accuracies, from rows of `analysis.load`. If there are several attacks in
    one norm, AutoAttack counts. how: a text to add to the reason why an accuracy is missing."""
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
            state, reason = "missing", f"no evaluation gives {', '.join(lacking)}{how}"
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
