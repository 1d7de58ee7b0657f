"""The Guide's tests: effects of factors and their interactions, one loss against the other, and
whether robust backbones are better fine-tuned with the loss they were pretrained with.

The unit is a configuration, its value the Borda count within its protocol (score_sum for wins). All
configurations share the same six datasets, and each was trained once, with one seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import scipy

from analysis.guide.correlations import ALL
from analysis.guide.design import FACTORS, LOSSES, SIZES
from analysis.guide.letters import mark
from analysis.guide.ranking import rank

ALPHA = 0.1
"""Significance level of the published Tukey tests."""
ROBUST = "supervised (robust)"
OTHER_RECIPE = "robust_resnet50"
"""A robust backbone that was pretrained with neither of the two losses: the paper leaves it out."""


def test_factors(frame: pd.DataFrame) -> pd.DataFrame:
    """One-way analysis of variance of Borda counts by each factor: F and p assuming equal
    variances, as published, and by Welch's test, which the paper names.

    Both treat the configurations of a backbone as independent. backbones_p: each backbone counts
    once, with its mean; losses are compared within backbones. adjusted_p: for what the factor
    explains beyond the other ones, without interactions.
    """
    found = []
    for protocol, table in _ranked(frame):
        for factor, groups in _by_factor(table):
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
                    "backbones_p": _by_backbone(table[table[factor] != ""], factor),
                    "adjusted_p": _adjusted(table, factor),
                }
            )
    columns = ["protocol", "factor", "levels", "configurations", "F", "p", "welch_F", "welch_p"]
    return pd.DataFrame(found, columns=[*columns, "backbones_p", "adjusted_p"])


def _by_backbone(table: pd.DataFrame, factor: str) -> float:
    """p of a factor with backbones as units."""
    if factor == "loss":
        backbones, losses = _dummies(table, "backbone"), _dummies(table, "loss")
        return nested(table["borda"], backbones, np.hstack([backbones, losses]))[1]
    means = table.groupby(["backbone", factor], as_index=False)[["borda"]].mean()
    return nested(means["borda"], np.ones((len(means), 1)), _dummies(means, factor))[1]


def _adjusted(table: pd.DataFrame, factor: str) -> float:
    """p of a factor beyond the others, over configurations that have all of them."""
    known = table[(table[list(FACTORS)] != "").all(axis=1)]
    others = np.hstack([_dummies(known, name) for name in FACTORS if name != factor])
    return nested(known["borda"], others, np.hstack([others, _dummies(known, factor)]))[1]


def mark_levels(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean Borda count of each level of each factor, the best first, with the letters of Tukey's
    honest significant differences at ALPHA: levels that share a letter do not differ."""
    found = []
    for protocol, table in _ranked(frame):
        for factor, groups in _by_factor(table):
            shown = mark(groups, ALPHA)
            for level in sorted(groups, key=lambda level: -groups[level].mean()):
                values = groups[level]
                row = protocol, factor, level, len(values), float(values.mean()), shown[level]
                found.append(row)
    columns = ["protocol", "factor", "level", "configurations", "mean_borda", "letters"]
    return pd.DataFrame(found, columns=columns)


def test_interactions(frame: pd.DataFrame) -> pd.DataFrame:
    """For each two factors, the published one-way test over their cells (are all cells equal?), and
    the F-test of the interaction alone (does the effect of one depend on the other?), which
    compares the model of all cells with the additive model."""
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
    """(F, p) of a one-way analysis of variance; nan if values do not vary within groups. equal_var:
    False for Welch's, which leaves out groups without variance."""
    able = [one for one in groups if equal_var or (len(one) > 1 and one.var() > 0)]
    if len(able) < 2 or not any(one.var() > 0 for one in able):
        return math.nan, math.nan
    found = scipy.stats.f_oneway(*able, equal_var=equal_var)
    return float(found.statistic), float(found.pvalue)


def interaction(table: pd.DataFrame, first: str, second: str) -> tuple[float, float, int]:
    """(F, p, degrees of freedom) of the interaction of two factors on `borda`: what all their cells
    explain beyond the additive model."""
    additive = np.hstack([_dummies(table, first), _dummies(table, second)])
    cells = pd.get_dummies(table[first] + "\0" + table[second]).to_numpy(float)
    return nested(table["borda"], additive, cells)


def nested(values: pd.Series, small: np.ndarray, large: np.ndarray) -> tuple[float, float, int]:
    """(F, p, degrees of freedom) of what the columns of `large`, shape [values, columns], explain
    beyond those of `small`, by least squares; F and p are nan if there are too few columns or
    values."""
    y = values.to_numpy(float)
    df = int(np.linalg.matrix_rank(large) - np.linalg.matrix_rank(small))
    residual = int(len(y) - np.linalg.matrix_rank(large))
    unexplained = [_unexplained(design, y) for design in (small, large)]
    if not df or not residual or np.isclose(unexplained[1], 0):
        return math.nan, math.nan, df
    F = (unexplained[0] - unexplained[1]) / df / (unexplained[1] / residual)
    return float(F), float(scipy.stats.f.sf(F, df, residual)), df


def _dummies(table: pd.DataFrame, column: str) -> np.ndarray:
    return pd.get_dummies(table[column]).to_numpy(float)


def _unexplained(design: np.ndarray, y: np.ndarray) -> float:
    fitted = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(((y - fitted) ** 2).sum())


def count_wins(frame: pd.DataFrame) -> pd.DataFrame:
    """The number of backbones on which each loss has the higher score_sum, by protocol and size.

    published_odds and published_p: Fisher's exact test of [[T, C], [C, T]], which counts each
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
    fisher = scipy.stats.fisher_exact(np.array([[T, C], [C, T]]))
    return {
        "backbones": len(gap),
        "trades": T,
        "classic": C,
        "odds": T / C if C else float("inf") if T else float("nan"),
        "published_odds": float(fisher.statistic),
        "published_p": float(fisher.pvalue),
        "sign_p": float(scipy.stats.binomtest(T, T + C).pvalue) if T + C else 1.0,
    }


def compare_losses(frame: pd.DataFrame) -> pd.DataFrame:
    """Robust backbones (without OTHER_RECIPE) were pretrained with classic AT: does fine-tuning
    with it (continuity) rank above TRADES (switch)? Two-sided Welch and Mann-Whitney tests of Borda
    counts; d: Cohen's, by the pooled standard deviation, positive if continuity is better."""
    found = []
    for protocol, table in _robust(frame):
        continuity, switch = (
            table.loc[table["loss"] == loss, "borda"].to_numpy(float) for loss in LOSSES
        )
        if min(len(continuity), len(switch)) < 2:
            continue
        spread = continuity.var(), switch.var()
        welch = (
            scipy.stats.ttest_ind(continuity, switch, equal_var=False) if min(spread) > 0 else None
        )
        whitney = scipy.stats.mannwhitneyu(continuity, switch)
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
    """Cohen's d: difference of means divided by the pooled sample standard deviation."""
    n, m = len(first), len(second)
    pooled = ((n - 1) * first.var(ddof=1) + (m - 1) * second.var(ddof=1)) / (n + m - 2)
    return float((first.mean() - second.mean()) / np.sqrt(pooled))


def share_of_top(frame: pd.DataFrame) -> pd.DataFrame:
    """Share of continuity among the k best configurations of `compare_losses`, for each k; and
    among the k worst, which the paper took for the best (it sorts ranks descending)."""
    found = []
    for protocol, table in _robust(frame):
        stays = (table.sort_values("rank", kind="stable")["loss"] == LOSSES[0]).to_numpy()
        for k in range(1, len(stays) + 1):
            found.append((protocol, k, float(stays[:k].mean()), float(stays[::-1][:k].mean())))
    return pd.DataFrame(found, columns=["protocol", "k", "of_best", "published"])


def _ranked(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yields (protocol, its ranked configurations)."""
    table = rank(frame)
    table = table[table["rank"].notna()]
    for protocol in dict.fromkeys(table["protocol"]):
        yield protocol, table[table["protocol"] == protocol]


def _robust(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for protocol, table in _ranked(frame):
        chosen = (table["pretraining"] == ROBUST) & (table["backbone"] != OTHER_RECIPE)
        yield protocol, table[chosen & table["loss"].isin(LOSSES)]


def _by_factor(table: pd.DataFrame) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Yields (factor, level -> Borda counts) for factors with at least two levels of several
    configurations."""
    for factor in FACTORS:
        groups = _split(table, factor)
        if len([g for g in groups.values() if len(g) > 1]) > 1:
            yield factor, groups


def _split(table: pd.DataFrame, factor: str) -> dict[str, np.ndarray]:
    names: Sequence[str] = [name for name in dict.fromkeys(table[factor]) if name]
    return {name: table.loc[table[factor] == name, "borda"].to_numpy(float) for name in names}
