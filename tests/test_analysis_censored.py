"""Delays of runs that never adapt are known to be long, not how long: nothing averages them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.statistics import median_delay


@pytest.mark.parametrize(
    ("delays", "epochs", "median"),
    [
        ([3], 8, 3),
        ([2, 4], 8, 3),  # as of any even count
        ([2, 4, 8], 8, 4),
        ([2, 8, 8, 8], 8, math.inf),
        ([2, 3, 8, 8], 8, math.inf),  # just half: the middle one may be anything
        ([2, 3, 5, 8, 8], 8, 5),
        ([8], 8, math.inf),
        ([6, 9, 9, 4], [6, 12, 12, 12], 9),  # the one of 6 epochs leaves early
    ],
)
def test_known_medians(delays: list[int], epochs: int | list[int], median: float) -> None:
    assert median_delay(delays, np.broadcast_to(epochs, len(delays))) == median


def test_without_a_run_there_is_none() -> None:
    assert math.isnan(median_delay([], []))


@given(st.lists(st.integers(0, 7), min_size=1, max_size=9))
def test_where_all_adapt_it_is_the_plain_median(delays: list[int]) -> None:
    assert median_delay(delays, [8] * len(delays)) == pytest.approx(np.median(delays))
