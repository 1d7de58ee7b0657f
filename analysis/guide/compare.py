"""Our runs of the Guide beside its published numbers, for the cells that both have."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.guide.design import CELL, CONFIGURATION, METRICS
from analysis.guide.measurements import published
from analysis.guide.ranking import competing, rank
from analysis.guide.tables import Analysis


def measurements(frame: pd.DataFrame) -> pd.DataFrame:
    """The five accuracies of each of our cells, the published ones, and the differences (ours minus
    published); NaN if one is missing."""
    both = frame.merge(
        published()[[*CELL, *METRICS]], on=CELL, how="left", suffixes=("", " published")
    )
    found = both[[*CELL, "state"]].copy()
    for metric in METRICS:
        found[f"{metric}"] = both[metric]
        found[f"{metric} published"] = both[f"{metric} published"]
        found[f"{metric} difference"] = both[metric] - both[f"{metric} published"]
    return found


def rankings(frame: pd.DataFrame) -> pd.DataFrame:
    """Ranks, Borda counts and score sums of our and of the published measurements, and the
    differences, over the cells that both have."""
    printed = published()
    ours = competing(frame).merge(printed[CELL], on=CELL)
    theirs = printed.merge(ours[CELL], on=CELL)
    columns = [*CONFIGURATION, "borda", "rank", "score_sum"]
    both = rank(ours)[columns].merge(
        rank(theirs)[columns], on=CONFIGURATION, suffixes=("", " published")
    )
    found = both[CONFIGURATION].copy()
    for name in ("rank", "borda", "score_sum"):
        found[name] = both[name]
        found[f"{name} published"] = both[f"{name} published"]
        found[f"{name} difference"] = both[name] - both[f"{name} published"]
    return found


COMPARED: Mapping[str, Analysis] = {
    "ranking": Analysis(
        "Ranking, ours and published",
        rankings,
        ("backbone", "loss"),
        ("among the configurations and datasets that both have; difference = ours - published",),
        apart=True,
    ),
    "measurements": Analysis(
        "Accuracies, ours and published",
        measurements,
        ("backbone", "loss", "dataset"),
        ("in %; difference = ours - published, in points; a dash if one side has no number",),
        ("state",),
        apart=True,
    ),
}
