"""Conclusions of the Guide that do not follow from its measurements, with the numbers.

Which test, label or order was used is taken from the paper; everything else is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pandas as pd
import scipy

from analysis.guide import correlations, effects
from analysis.guide.design import (
    CELL,
    LOSSES,
    METRICS,
    params,
    size_of,
)
from analysis.guide.measurements import records
from analysis.guide.ranking import MEDALS, rank

SURE = 0.05
FAR = 0.2
"""Loss of clean accuracy, in [0, 1], that longer training should not cause."""
APART = 0.5
"""Difference in clean accuracy, in [0, 1], that two losses should not cause."""

Lines = Iterator[str]


def resized(frame: pd.DataFrame) -> Lines:
    """Medals that would change if size classes followed the number of parameters."""
    table = rank(frame).dropna(subset="rank")
    true = [
        row["size"] if (known := params(row["backbone"])) is None else size_of(known)
        for row in records(table)
    ]
    for protocol, rows in table.assign(true=true).groupby("protocol", sort=False):
        for size in dict.fromkeys(table["size"]):
            said, meant = (
                rows[rows[column] == size].nsmallest(len(MEDALS), "rank")
                for column in ("size", "true")
            )
            if [*said.index] != [*meant.index]:
                now, then = (
                    ", ".join(f"{r['backbone']} ({r['loss']})" for r in records(part))
                    for part in (said, meant)
                )
                yield f"{protocol}, {size}: the medals of {now} would go to {then}"


def golds(frame: pd.DataFrame) -> Lines:
    """Gold medals that go elsewhere without one of the datasets."""
    datasets = [*dict.fromkeys(frame["dataset"])]
    others = {name: _golds(frame[frame["dataset"] != name]) for name in datasets[1:] and datasets}
    for key, gold in _golds(frame).items():
        moved = [
            f"{found[key]} without {name}"
            for name, found in others.items()
            if found.get(key, gold) != gold
        ]
        if moved:
            yield f"{', '.join(key)}: the gold medal of {gold} would go to {'; '.join(moved)}"


def scores(frame: pd.DataFrame) -> Lines:
    """Rankings that depend on the score: by Borda counts or by sums of accuracies."""
    table = rank(frame).dropna(subset="rank")
    medals, by_sum = _golds(frame), _golds(frame, "rank_sum")
    for protocol, rows in table.groupby("protocol", sort=False):
        ranks = rows[["rank", "rank_sum"]].astype(float)
        gap = (ranks["rank"] - ranks["rank_sum"]).abs().max()
        if gap:
            moved = [key[1] for key in medals if key[0] == protocol and by_sum[key] != medals[key]]
            rho = scipy.stats.spearmanr(ranks["rank"], ranks["rank_sum"]).statistic
            yield (
                f"{protocol}: ranks by Borda counts and by sums correlate by {rho:.2f} and differ "
                f"by up to {gap:.0f} of {len(rows)} places; sizes with another gold medal by sums: "
                f"{', '.join(moved) or 'none'}"
            )


def _golds(frame: pd.DataFrame, by: str = "rank") -> dict[tuple[str, str], str]:
    """(protocol, size) -> the configuration with its gold medal; the score sum breaks ties."""
    table = rank(frame).dropna(subset="rank")
    ordered = table[table["size"] != ""].sort_values([by, "rank_sum"], kind="stable")
    first = ordered.drop_duplicates(["protocol", "size"]).sort_index()
    return {(r["protocol"], r["size"]): f"{r['backbone']} ({r['loss']})" for r in records(first)}


def variances(frame: pd.DataFrame) -> Lines:
    """Factors whose significance changes with the test: the paper names Welch's ANOVA, but its
    numbers are those of the ANOVA with equal variances."""
    return _changed(frame, "welch_p", "by Welch's test")


def doubled(frame: pd.DataFrame) -> Lines:
    """Factors whose significance changes if each backbone counts once: its two configurations,
    which the paper takes for independent, have similar ranks."""
    return _changed(frame, "backbones_p", "with backbones as units")


def explained(frame: pd.DataFrame) -> Lines:
    """Factors whose significance changes if the other ones are held fixed: sizes, types and
    pre-training are not balanced against each other."""
    return _changed(frame, "adjusted_p", "beyond the other factors")


def _changed(frame: pd.DataFrame, column: str, how: str) -> Lines:
    """Factors whose significance, by the p-values in `column`, differs from the published one."""
    for row in records(effects.test_factors(frame).dropna(subset=["p", column])):
        if (row["p"] < effects.ALPHA) != (row[column] < effects.ALPHA):
            yield (
                f"{row['protocol']}, {row['factor']}: p = {row['p']:.3f} as published, "
                f"{row[column]:.3f} {how}"
            )


def interactions(frame: pd.DataFrame) -> Lines:
    """Published interactions that are not significant: the paper's one-way test over the cells of
    two factors only shows whether cells differ."""
    both = effects.test_interactions(frame)
    published = both[both["cells_p"] < effects.ALPHA]
    without = published[published["interaction_p"] >= effects.ALPHA]
    for row in records(without):
        yield (
            f"{row['protocol']}, {row['factors']}: p = {row['cells_p']:.2g} over {row['cells']} "
            f"cells, {row['interaction_p']:.2g} for the interaction"
        )


def odds(frame: pd.DataFrame) -> Lines:
    """Odds of TRADES against classic AT: the paper's table [[T, C], [C, T]] counts every backbone
    twice and squares the odds."""
    for row in records(effects.count_wins(frame)):
        known = (
            f"{row['protocol']}, {row['size']}: TRADES wins {row['trades']} of {row['backbones']} "
            f"backbones; odds of {row['odds']:.3g} become {row['published_odds']:.3g}"
        )
        p = f"p = {row['published_p']:.2g}, by a sign test {row['sign_p']:.2g}"
        lost = row["published_p"] < SURE <= row["sign_p"]
        yield f"{known}; {p}" + ": no longer significant at 5 %" * lost


def top(frame: pd.DataFrame) -> Lines:
    """What the paper calls its k best are the k worst: it sorts the ranks in descending order."""
    for row in records(effects.share_of_top(frame)):
        if row["protocol"] == correlations.longest(frame) and row["of_best"] != row["published"]:
            yield (
                f"{row['protocol']}, k = {row['k']}: classic AT has {100 * row['of_best']:.0f} % "
                f"of the k best robust configurations, {100 * row['published']:.0f} % of the worst"
            )


def switch(frame: pd.DataFrame) -> Lines:
    """Tests of the loss switch that are not significant, whatever its effect size."""
    for row in records(effects.compare_losses(frame)):
        if min(row["p"], row["U_p"]) >= effects.ALPHA:
            yield (
                f"{row['protocol']}: d = {row['d']:.2f}, yet p = {row['p']:.2f} (t) and "
                f"{row['U_p']:.2f} (U), with {row['continuity']} against {row['switch']} "
                "configurations"
            )


def swapped(frame: pd.DataFrame) -> Lines:
    """In the paper's heat map the tick labels of clean and common are swapped."""
    matrix = correlations.heat_map(frame)
    longest = correlations.longest(frame)
    shown = {row["metric"]: row for row in records(matrix[matrix["protocol"] == longest])}
    for metric in METRICS[1:4] if shown else ():
        clean, common = (shown[name][metric] for name in ("clean", "common"))
        yield f"{metric} correlates with clean by {clean:.3f}, with common by {common:.3f}"


def pooled(frame: pd.DataFrame) -> Lines:
    """Groups whose order by mean correlation is due to pooling the datasets: accuracies correlate
    also because some datasets are harder than others."""
    table = correlations.mean_correlations(frame)
    table = table[table["protocol"] == correlations.longest(frame)]
    for factor, rows in table.groupby("factor", sort=False):
        orders = [
            rows.sort_values(column, ascending=False, kind="stable")
            for column in ("pooled", "per_dataset")
        ]
        if [*orders[0].index] != [*orders[1].index]:
            first, second = (
                ", ".join(f"{r['level']} {r[column]:.2f}" for r in records(order))
                for order, column in zip(orders, ("pooled", "per_dataset"), strict=True)
            )
            yield f"{factor}: pooled {first}; per dataset {second}"


def proxies(frame: pd.DataFrame) -> Lines:
    """Cheap protocols whose ranking agrees with that of the longest one over both losses together,
    but not within one loss."""
    table = correlations.proxies(frame)
    whole = table[table["loss"] == correlations.ALL].set_index("proxy")
    for row in records(table[table["loss"] != correlations.ALL]):
        over = whole.loc[row["proxy"]]
        if over["p"] < SURE <= row["p"]:
            yield (
                f"{row['proxy']} against {row['against']}: rho = {over['rho']:.2f} over both "
                f"losses, {row['rho']:.2f} for {row['loss']} (p = {row['p']:.2g})"
            )


def searches(frame: pd.DataFrame) -> Lines:
    """Results that suggest that the search for hyper-parameters failed."""
    longest = correlations.longest(frame)
    rest = [name for name in CELL if name != "protocol"]
    clean = frame.pivot(index=rest, columns="protocol", values="clean")
    for other in clean.columns.drop(longest) if longest else ():
        gap = (clean[longest] - clean[other]).dropna()
        yield (
            f"{longest} has less clean accuracy than {other} on {(gap < 0).sum()} of {len(gap)} "
            f"cells, by more than {100 * FAR:.0f} points on {(gap < -FAR).sum()}"
        )
    rest = [name for name in CELL if name != "loss"]
    pairs = frame[frame["loss"].isin(LOSSES)].pivot(index=rest, columns="loss", values="clean")
    if len(pairs.columns) == len(LOSSES):
        gap = (pairs[LOSSES[0]] - pairs[LOSSES[1]]).abs().dropna()
        for protocol, rows in gap.groupby("protocol"):
            yield (
                f"{protocol}: the two losses are over {100 * APART:.0f} points of clean accuracy "
                f"apart on {(rows > APART).sum()} of {len(rows)} backbones and datasets, each "
                "trained once, with one seed"
            )


SECTIONS: Mapping[str, Callable[[pd.DataFrame], Lines]] = {
    "Medals, with size classes by number of parameters": resized,
    "Gold medals that hang on one dataset": golds,
    "Rankings that depend on the score": scores,
    "Welch's test in the text, equal variances in the numbers": variances,
    "Two configurations of each backbone taken for independent": doubled,
    "Effects tested without regard to other factors": explained,
    "Interactions that are not significant": interactions,
    "Squared odds, and backbones counted twice": odds,
    "A loss switch that no test shows": switch,
    "The loss among the k best robust configurations": top,
    "Swapped labels of the heat map, clean and common": swapped,
    "Mean correlations over pooled datasets": pooled,
    "Cheap proxies that fail within a loss": proxies,
    "Signs of searches that found little": searches,
}
