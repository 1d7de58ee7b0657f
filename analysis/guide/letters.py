"""Compact letters for pairwise tests: levels that share one do not differ significantly."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from string import ascii_lowercase

import numpy as np
import scipy


def mark(groups: Mapping[str, np.ndarray], alpha: float) -> dict[str, str]:
    """Level -> its letters by Tukey's HSD test at level `alpha`. groups: level -> values. The level
    with the highest mean has an 'a'; groups with a single value cannot be compared and have ''; all
    have one letter if values do not vary within groups.

    By insertion and absorption (Piepho, 2004): the set of all levels is split at every pair that
    differs, and sets contained in others are dropped.
    """
    able = {name: values for name, values in groups.items() if len(values) > 1}
    ordered = sorted(able, key=lambda name: -able[name].mean())
    varied = any(able[name].var() > 0 for name in ordered)
    apart = _apart([able[name] for name in ordered], alpha) if len(ordered) > 1 and varied else []
    sets = [frozenset(range(len(ordered)))]
    for i, j in apart:
        split = [
            part for one in sets for part in (({one - {i}, one - {j}}) if {i, j} <= one else {one})
        ]
        sets = [one for one in dict.fromkeys(split) if not any(one < other for other in split)]
    sets.sort(key=sorted)
    found = dict.fromkeys(groups, "")
    for letter, members in zip(ascii_lowercase, sets, strict=False):
        for member in sorted(members):
            found[ordered[member]] += letter
    return found


def _apart(values: list[np.ndarray], alpha: float) -> list[tuple[int, int]]:
    p = scipy.stats.tukey_hsd(*values).pvalue
    return [(i, j) for i, j in combinations(range(len(values)), 2) if p[i, j] < alpha]
