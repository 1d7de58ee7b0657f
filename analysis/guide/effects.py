"""Tests of what the rankings are said to show: factors and their interactions, one loss against the
other, and whether robust backbones want the loss that they were pretrained with.

The unit is a configuration, its value the Borda count within its protocol (or score_sum for wins).
The same six datasets are behind all of them, and each was trained once, with one seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.guide.correlations import ALL
from analysis.guide.design import FACTORS, LOSSES, SIZES
from analysis.guide.letters import mark
from analysis.guide.ranking import rank

ALPHA = 0.1
"""Of the published Tukey tests."""
ROBUST = "supervised (robust)"
OTHER_RECIPE = "robust_resnet50"
"""Robust, but not pretrained with the losses at issue: left out of the published comparison."""


def test_factors(frame: pd.DataFrame) -> pd.DataFrame:
    """One-way analysis of variance of Borda counts by each factor: F and p with equal variances, as
    the published numbers are, and Welch's, as the published text calls them."""
    found = []
    for protocol, factor, groups in _by_factor(frame):
        F, p = anova([*groups.values()])
        welch_F, welch_p = anova([*groups.values()], equal_var=False)
        found.append(
            {
                "protocol": protocol,
                "factor": factor,
                "levels": len(groups),
                "configurations": sum(map(len, groups.values())),
                "F": F,
                "p": p,
                "welch_F": welch_F,
                "welch_p": welch_p,
            }
        )
    columns = ["protocol", "factor", "levels", "configurations", "F", "p", "welch_F", "welch_p"]
    return pd.DataFrame(found, columns=columns)


def mark_levels(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean Borda count of each level of each factor, the best first, with the letters of Tukey's
    honest significant differences at ALPHA: levels that share a letter do not differ."""
    found = []
    for protocol, factor, groups in _by_factor(frame):
        shown = mark(groups, ALPHA)
        for level in sorted(groups, key=lambda level: -groups[level].mean()):
            values = groups[level]
            row = protocol, factor, level, len(values), float(values.mean()), shown[level]
            found.append(row)
    columns = ["protocol", "factor", "level", "configurations", "mean_borda", "letters"]
    return pd.DataFrame(found, columns=columns)


def test_interactions(frame: pd.DataFrame) -> pd.DataFrame:
    """Each two factors: the published one-way test over their cells (are all cells equal?), and the
    F-test of the interaction alone (do effects of one depend on the other?): the model of all cells
    against the one that adds the two effects."""
    found = []
    for protocol, table in _ranked(frame):
        for first, second in combinations(FACTORS, 2):
            known = table[(table[first] != "") & (table[second] != "")]
            cells = [group["borda"].to_numpy(float) for _, group in known.groupby([first, second])]
            if len(cells) < 2 or len(known) <= len(cells):
                continue
            cells_F, cells_p = anova(cells)
            F, p, df = interaction(known, first, second)
            found.append(
                {
                    "protocol": protocol,
                    "factors": f"{first} x {second}",
                    "cells": len(cells),
                    "cells_F": cells_F,
                    "cells_p": cells_p,
                    "interaction_F": F,
                    "interaction_p": p,
                    "df": df,
                    "df_residual": len(known) - len(cells),
                }
            )
    columns = ["protocol", "factors", "cells", "cells_F", "cells_p"]
    columns += ["interaction_F", "interaction_p", "df", "df_residual"]
    return pd.DataFrame(found, columns=columns)


def anova(groups: Sequence[np.ndarray], *, equal_var: bool = True) -> tuple[float, float]:
    """(F, p) of a one-way analysis of variance; nan if values do not vary within groups. Welch's
    (not `equal_var`) takes the groups that have a variance."""
    able = [one for one in groups if equal_var or (len(one) > 1 and one.var() > 0)]
    if len(able) < 2 or not any(one.var() > 0 for one in able):
        return math.nan, math.nan
    found = stats.f_oneway(*able, equal_var=equal_var)
    return float(found.statistic), float(found.pvalue)


def interaction(table: pd.DataFrame, first: str, second: str) -> tuple[float, float, int]:
    """(F, p, its degrees of freedom) of the interaction of two factors on `borda`, by least
    squares; nan if the cells there are leave none."""
    y = table["borda"].to_numpy(float)
    one, other = (pd.get_dummies(table[name]).to_numpy(float) for name in (first, second))
    additive = np.column_stack([one, other])
    cells = pd.get_dummies(table[first] + "\0" + table[second]).to_numpy(float)
    df = int(np.linalg.matrix_rank(cells) - np.linalg.matrix_rank(additive))
    residual = len(y) - np.linalg.matrix_rank(cells)
    unexplained = [_unexplained(design, y) for design in (additive, cells)]
    if not df or not residual or np.isclose(unexplained[1], 0):
        return math.nan, math.nan, df
    F = (unexplained[0] - unexplained[1]) / df / (unexplained[1] / residual)
    return float(F), float(stats.f.sf(F, df, residual)), df


def _unexplained(design: np.ndarray, y: np.ndarray) -> float:
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(((y - fitted) ** 2).sum())


def count_wins(frame: pd.DataFrame) -> pd.DataFrame:
    """On how many backbones each loss has the higher score_sum, by protocol and size.

    published_odds and published_p: Fisher's exact test of [[T, C], [C, T]], which takes each
    backbone twice and squares the odds T / C. sign_p: the two-sided sign test of T against C.
    """
    found = []
    for protocol, table in _ranked(frame):
        sums = table.pivot(index=["backbone", "size"], columns="loss", values="score_sum")
        if not {*LOSSES} <= {*sums.columns}:
            continue
        gap = (sums["TRADES"] - sums["Classic AT"]).dropna()
        sizes = gap.index.get_level_values("size")
        for size in (ALL, *SIZES):
            some = gap if size == ALL else gap[sizes == size]
            if len(some):
                found.append({"protocol": protocol, "size": size, **_counted(some)})
    columns = ["protocol", "size", "backbones", "trades", "classic", "odds", "published_odds"]
    return pd.DataFrame(found, columns=[*columns, "published_p", "sign_p"])


def _counted(gap: pd.Series) -> dict[str, float]:
    T, C = int((gap > 0).sum()), int((gap < 0).sum())
    fisher = stats.fisher_exact(np.array([[T, C], [C, T]]))
    return {
        "backbones": len(gap),
        "trades": T,
        "classic": C,
        "odds": T / C if C else float("inf") if T else float("nan"),
        "published_odds": float(fisher.statistic),
        "published_p": float(fisher.pvalue),
        "sign_p": float(stats.binomtest(T, T + C).pvalue) if T + C else 1.0,
    }


def compare_losses(frame: pd.DataFrame) -> pd.DataFrame:
    """Robust backbones (but OTHER_RECIPE), which were pretrained with classic AT: does fine-tuning
    with it (continuity) rank above TRADES (switch)? Two-sided Welch and Mann-Whitney tests of their
    Borda counts; d: Cohen's, by the pooled standard deviation, positive for continuity."""
    found = []
    for protocol, table in _robust(frame):
        continuity, switch = (
            table.loc[table["loss"] == loss, "borda"].to_numpy(float) for loss in LOSSES
        )
        if min(len(continuity), len(switch)) < 2:
            continue
        spread = continuity.var(), switch.var()
        welch = stats.ttest_ind(continuity, switch, equal_var=False) if min(spread) > 0 else None
        whitney = stats.mannwhitneyu(continuity, switch)
        found.append(
            {
                "protocol": protocol,
                "continuity": len(continuity),
                "switch": len(switch),
                "mean_continuity": float(continuity.mean()),
                "mean_switch": float(switch.mean()),
                "t": float(welch.statistic) if welch else math.nan,
                "p": float(welch.pvalue) if welch else math.nan,
                "U": float(whitney.statistic),
                "U_p": float(whitney.pvalue),
                "d": cohen(continuity, switch) if max(spread) > 0 else math.nan,
            }
        )
    columns = ["protocol", "continuity", "switch", "mean_continuity", "mean_switch"]
    return pd.DataFrame(found, columns=[*columns, "t", "p", "U", "U_p", "d"])


def cohen(first: np.ndarray, second: np.ndarray) -> float:
    """Difference of means over the pooled sample standard deviation."""
    n, m = len(first), len(second)
    pooled = ((n - 1) * first.var(ddof=1) + (m - 1) * second.var(ddof=1)) / (n + m - 2)
    return float((first.mean() - second.mean()) / np.sqrt(pooled))


def share_of_top(frame: pd.DataFrame) -> pd.DataFrame:
    """Share of continuity among the k best configurations of `compare_losses`, for each k; and
    among the k worst, which the published numbers took for the best (ranks sorted descending)."""
    found = []
    for protocol, table in _robust(frame):
        stays = (table.sort_values("rank", kind="stable")["loss"] == LOSSES[0]).to_numpy()
        for k in range(1, len(stays) + 1):
            found.append((protocol, k, float(stays[:k].mean()), float(stays[::-1][:k].mean())))
    return pd.DataFrame(found, columns=["protocol", "k", "of_best", "published"])


def _ranked(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(protocol, its configurations that have ranks)."""
    table = rank(frame)
    table = table[table["rank"].notna()]
    for protocol in dict.fromkeys(table["protocol"]):
        yield protocol, table[table["protocol"] == protocol]


def _robust(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for protocol, table in _ranked(frame):
        chosen = (table["pretraining"] == ROBUST) & (table["backbone"] != OTHER_RECIPE)
        yield protocol, table[chosen & table["loss"].isin(LOSSES)]


def _by_factor(frame: pd.DataFrame) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
    """(protocol, factor, level -> Borda counts) with at least two levels and a spread within."""
    for protocol, table in _ranked(frame):
        for factor in FACTORS:
            groups = _split(table, factor)
            if len([g for g in groups.values() if len(g) > 1]) > 1:
                yield protocol, factor, groups


def _split(table: pd.DataFrame, factor: str) -> dict[str, np.ndarray]:
    names: Sequence[str] = [name for name in dict.fromkeys(table[factor]) if name]
    return {name: table.loc[table[factor] == name, "borda"].to_numpy(float) for name in names}
