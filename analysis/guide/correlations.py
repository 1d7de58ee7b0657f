"""Rank correlations between the five accuracies, and of cheap protocols with the longest one."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import scipy

from analysis.guide.design import FACTORS, METRICS, PROTOCOL
from analysis.guide.ranking import rank

ALL = "all"
"""Name of the group of all configurations."""


def heat_map(frame: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of the five accuracies over all rows of a protocol: one row per
    protocol and metric, one column per metric."""
    found = []
    for protocol, rows in _protocols(frame):
        matrix = rows[list(METRICS)].corr(method="spearman")
        for metric in METRICS:
            found.append((protocol, metric, *matrix.loc[metric], len(rows)))
    return pd.DataFrame(found, columns=["protocol", "metric", *METRICS, "rows"])


def mean_correlations(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute Spearman correlation between the five accuracies, for all configurations and
    for each level of each factor.

    pooled: over all rows of the group. per_dataset: on each dataset, then averaged. undefined: the
    number of datasets on which a pair is left out because an accuracy is constant there.
    """
    found = []
    for protocol, rows in _protocols(frame):
        for factor, level, group in _groups(rows):
            each = [mean_absolute(part) for _, part in group.groupby("dataset")]
            found.append(
                {
                    "protocol": protocol,
                    "factor": factor,
                    "level": level,
                    "pooled": mean_absolute(group)[0],
                    "per_dataset": float(pd.Series([mean for mean, _ in each]).mean()),
                    "rows": len(group),
                    "undefined": sum(lacks for _, lacks in each),
                }
            )
    columns = ["protocol", "factor", "level", "pooled", "per_dataset", "rows", "undefined"]
    return pd.DataFrame(found, columns=columns)


def mean_absolute(rows: pd.DataFrame) -> tuple[float, bool]:
    """(mean of |Spearman's rho| over the ten pairs of metrics, whether some have none)."""
    matrix = rows[list(METRICS)].corr(method="spearman").abs().to_numpy()
    pairs = matrix[np.triu_indices(len(METRICS), 1)]
    defined = pairs[~np.isnan(pairs)]
    return float(defined.mean()) if len(defined) else float("nan"), len(defined) < len(pairs)


def proxies(frame: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of score_sum between each protocol and the longest full fine-tuning,
    over the configurations that both have: for all, and for each loss."""
    table = rank(frame)
    reference = longest(frame)
    if reference is None:
        return pd.DataFrame(columns=["proxy", "against", "loss", "configurations", "rho", "p"])
    scores = table.pivot(index=["backbone", "loss"], columns="protocol", values="score_sum")
    found = []
    for proxy in dict.fromkeys(frame["protocol"]):
        if proxy == reference:
            continue
        both = scores[[reference, proxy]].dropna()
        losses = both.index.get_level_values("loss")
        for level in (ALL, *dict.fromkeys(losses)):
            some = both if level == ALL else both[losses == level]
            if len(some) < 3:
                continue
            varied = some.nunique().min() > 1
            rho, p = (
                scipy.stats.spearmanr(some[reference], some[proxy]) if varied else (math.nan,) * 2
            )
            found.append((proxy, reference, level, len(some), float(rho), float(p)))
    return pd.DataFrame(found, columns=["proxy", "against", "loss", "configurations", "rho", "p"])


def longest(frame: pd.DataFrame) -> str | None:
    """The protocol that trains all weights for the most epochs; None if there is none."""
    found = [match for name in frame["protocol"].unique() if (match := PROTOCOL.fullmatch(name))]
    full = [match for match in found if match[1] == "FFT"]
    return max(full, key=lambda match: int(match[2]))[0] if full else None


def _protocols(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    done = frame[frame["state"] == "done"]
    for protocol in dict.fromkeys(done["protocol"]):
        yield protocol, done[done["protocol"] == protocol]


def _groups(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yields (factor, level, rows), first for all rows."""
    yield ALL, ALL, rows
    for factor in FACTORS:
        for level in dict.fromkeys(rows[factor]):
            if level:
                yield factor, level, rows[rows[factor] == level]
