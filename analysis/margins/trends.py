"""Trends over many taus: their range, and whether they rise with eps_g, with T2, and from fix to
sched."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.rounding import half_up
from core.errors import counted

SAME = ["model", "dataset", "variant", "norm", "seed", "eval_id"]
"""Columns in which runs of one comparison agree."""


def sentences(frame: pd.DataFrame) -> list[str]:
    """The trends as sentences; [] without a tau. frame: as `Results.margins`."""
    taus = frame[(frame["metric"] == "tau") & (frame["score"] == "logit")].dropna(subset="value")
    if taus.empty:
        return []
    low, middle, high = (half_up(np.quantile(taus["value"], at), 2) for at in (0, 0.5, 1))
    ends = f"{low} to {high}, median {middle}" if len(taus) > 1 else f"{middle}"
    runs = counted(taus["run_id"].nunique(), "run")
    runs += f" and {len(taus)} evaluations" if len(taus) > taus["run_id"].nunique() else ""
    return [
        f"Kendall's tau between distance and logit margin over {runs}: {ends}",
        *_rises(_with_standard(taus), [*SAME, "setting"], "epsilon_g", "eps_g"),
        *_rises(taus[taus["T2"].notna()], [*SAME, "epsilon_g", "T1"], "T2", "T2"),
        *_rises(_fix_and_sched(taus), [*SAME, "epsilon_g"], "place", "sched in place of fix"),
    ]


def _with_standard(taus: pd.DataFrame) -> pd.DataFrame:
    """The rows, with standard runs repeated as eps_g = 0 of every other setting of their model and
    dataset."""
    plain, others = (taus[taus["setting"].eq("standard") == is_plain] for is_plain in (True, False))
    shared = [name for name in SAME if name != "norm"]
    asked = others[[*shared, "norm", "setting"]].drop_duplicates()
    below = plain.drop(columns=["norm", "setting"]).merge(asked, on=shared)
    return pd.concat([others, below[others.columns]])


def _fix_and_sched(taus: pd.DataFrame) -> pd.DataFrame:
    chosen = taus[taus["setting"].isin(["fix", "sched"])]
    return chosen.assign(place=chosen["setting"].eq("sched").astype(int))


def _rises(taus: pd.DataFrame, by: Sequence[str], along: str, name: str) -> list[str]:
    """A sentence on how often tau at the largest value of `along` is above that at the smallest,
    and how often with disjoint intervals. [] if there is nothing to compare."""
    pairs = []
    for _, group in taus.groupby(list(by), dropna=False):
        ordered = group.sort_values(along)
        first, last = ordered.iloc[0], ordered.iloc[-1]
        if first[along] < last[along]:
            pairs.append((first, last))
    if not pairs:
        return []
    higher = sum(last["value"] > first["value"] for first, last in pairs)
    sure = sum(last["low"] > first["high"] for first, last in pairs)
    fallen = sum(last["high"] < first["low"] for first, last in pairs)
    difference = float(np.mean([last["value"] - first["value"] for first, last in pairs]))
    return [
        f"tau against {name}: higher at the upper end in {higher} of {len(pairs)} comparisons, "
        f"{half_up(difference, 2):+} on average; the intervals are disjoint in {sure} of the rises"
        + (f" and in {fallen} of the falls" if fallen else "")
    ]
