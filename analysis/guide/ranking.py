"""Rankings of configurations (a backbone with a loss) within a protocol: Borda counts, medals.

Only configurations measured on all datasets of their protocol are ranked; the others are listed
with the number of datasets they have.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.guide.design import CONFIGURATION, METRICS, SIZES

MEDALS = ("gold", "silver", "bronze")
ABOUT = ["name", "size", "type", "pretraining"]


def competing(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of configurations that are measured on every dataset of their protocol."""
    done = frame[frame["state"] == "done"]
    asked = frame.groupby("protocol")["dataset"].nunique()
    measured = done.groupby(CONFIGURATION)["dataset"].transform("nunique")
    return done[measured == done["protocol"].map(asked)]


def points(frame: pd.DataFrame, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Borda points of every row in each metric: its rank among the configurations of its protocol
    on its dataset, 1 for the worst; ties get the lowest."""
    groups = frame.groupby(["protocol", "dataset"])[list(metrics)]
    return groups.rank(method="min", ascending=True)


def rank(frame: pd.DataFrame, metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """One row per configuration, the best of each protocol first: borda (points over all metrics
    and datasets), score_sum and score_geom (sum and product of the five accuracies, summed over
    datasets), the rank by each (1 for the best; ties get the best), datasets (measured), state.

    `rank` is the published GR. Ranks are NaN for configurations that are not measured on all
    datasets.
    """
    able = competing(frame)
    borda = points(able, metrics).sum(axis=1)
    scores = able.assign(borda=borda).groupby(CONFIGURATION, sort=False)
    table = scores.agg(borda=("borda", "sum"), score_sum=("sum", "sum"), score_geom=("geom", "sum"))
    ranked = table.groupby("protocol", sort=False).rank(method="min", ascending=False)
    ranked.columns = pd.Index(["rank", "rank_sum", "rank_geom"])
    listed = frame.drop_duplicates(CONFIGURATION).set_index(CONFIGURATION)[ABOUT]
    counts = frame.assign(done=frame["state"] == "done").groupby(CONFIGURATION)["done"]
    listed = listed.assign(datasets=counts.sum(), asked=counts.size())
    listed["state"] = [
        "done" if measured == asked else f"{measured} of {asked} datasets"
        for measured, asked in zip(listed["datasets"], listed["asked"], strict=True)
    ]
    whole = listed.drop(columns="asked").join(table).join(ranked).reset_index()
    order = {name: place for place, name in enumerate(dict.fromkeys(frame["protocol"]))}
    placed = whole.assign(place=whole["protocol"].map(order)).sort_values(
        ["place", "rank", "rank_sum"], kind="stable"
    )
    numbers = {name: "Int64" for name in ("borda", "rank", "rank_sum", "rank_geom")}
    columns = [*CONFIGURATION, "borda", "rank", "score_sum", "rank_sum", "score_geom", "rank_geom"]
    return placed.astype(numbers)[[*columns, *ABOUT, "datasets", "state"]].reset_index(drop=True)


def medals(frame: pd.DataFrame) -> pd.DataFrame:
    """Gold, silver and bronze of each size class and protocol: the three best by rank. Equal ranks
    share a medal."""
    table = rank(frame)
    table = table[table["rank"].notna() & (table["size"] != "")]
    places = table.groupby(["protocol", "size"])["rank"].rank(method="min")
    won = table.assign(place=places.astype(int))
    won = won[won["place"] <= len(MEDALS)]
    won = won.assign(medal=[MEDALS[place - 1] for place in won["place"]])
    columns = ["protocol", "size", "medal", "backbone", "loss", "rank", "borda", "score_sum"]
    # Rows are already sorted by rank; this sorts the size classes.
    parts = [
        won.loc[(won["protocol"] == protocol) & (won["size"] == size), columns]
        for protocol in dict.fromkeys(frame["protocol"])
        for size in SIZES
    ]
    found: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return found


def best(frame: pd.DataFrame) -> pd.DataFrame:
    """The best configuration on each dataset, by Borda points there; the product of the five
    accuracies breaks ties."""
    able = competing(frame)
    scored = able.assign(borda=points(able).sum(axis=1).astype(int))
    ordered = scored.sort_values(["borda", "geom"], ascending=False, kind="stable")
    first: pd.DataFrame = ordered.drop_duplicates(["protocol", "dataset"]).sort_index()
    columns = ["protocol", "dataset", "backbone", "loss", "borda", *METRICS, "geom"]
    return first[columns].reset_index(drop=True)


def means(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over datasets of clean accuracy and of the mean of the other four, for each
    configuration."""
    able = competing(frame)
    robust = able[list(METRICS[1:])].mean(axis=1)
    grouped = able.assign(robust=robust).groupby([*CONFIGURATION, "name", "size"], sort=False)
    return grouped.agg(clean=("clean", "mean"), robust=("robust", "mean")).reset_index()
