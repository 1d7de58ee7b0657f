"""Delays of runs that never adapt are known to be long, not how long: nothing averages them."""

from __future__ import annotations

import math
from pathlib import Path

import analysis_store as made
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PathCollection

from analysis import Results
from analysis.figures.strength import correlation
from analysis.figures.strength import delay as delay_figure
from analysis.report import Digests
from analysis.report.facts import findings
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
def test_if_all_adapt_it_is_the_plain_median(delays: list[int]) -> None:
    assert median_delay(delays, [8] * len(delays)) == pytest.approx(np.median(delays))


def test_the_correlation_ranks_runs_that_never_adapt_last_and_alike() -> None:
    delays, clean = np.array([1, 2, 5, np.inf, np.inf]), np.array([80.0, 70, 40, 3, 2])
    assert correlation(delays, clean) == pytest.approx(-0.974679, abs=1e-6)
    assert math.isnan(correlation(np.array([np.inf] * 3), clean[:3]))
    assert math.isnan(correlation(delays[:2], clean[:2]))


def test_the_figure_sets_runs_apart_that_never_adapt(tmp_path: Path) -> None:
    """12 epochs; made runs of fix adapt at epoch 2 * eps_g: at 6/255 never."""
    runs = made.grid(("vit",), ("cars",), ("2/255", "4/255", "6/255"), ("fix",))
    results = Results(tmp_path, made.fill(tmp_path, runs))
    ((_, figure),) = delay_figure(results)
    left, right = figure.axes
    (line,) = left.lines
    assert list(line.get_ydata()) == [4, 8, 12]
    hollow = next(one for one in left.collections if isinstance(one, PathCollection))
    assert hollow.get_offsets().tolist() == [[6, 12]]
    assert hollow.get_facecolor().tolist() == [[1, 1, 1, 1]]
    assert "1 never" in right.get_legend().get_texts()[0].get_text()


def test_findings_count_the_pairs_that_the_tests_and_claims_count(tmp_path: Path) -> None:
    """Robust backbones and ImageNette have tables of their own, and are said to be left out."""
    backbones, datasets = ("vit", "swin", "robvit"), ("cars", "imagenette")
    results = Results(tmp_path, made.fill(tmp_path, made.grid(backbones, datasets)))
    said = findings(Digests.of(results), paper=True)
    assert "on 2 of 2 backbone-dataset pairs" in said[0]
    assert said[0].endswith("Robust backbones and ImageNette (4 pairs) are not counted.")
    assert any(line.startswith("Over 2 pairs") for line in said)
    assert any("Clean at 8/255: sched better in 2 of 2" in line for line in said)
    assert "never adapts in 2 of 2 runs" in said[0]


def test_a_grid_of_nothing_else_is_counted_whole(tmp_path: Path) -> None:
    runs = made.grid(("robvit", "robswin"), ("cars",))
    results = Results(tmp_path, made.fill(tmp_path, runs))
    said = findings(Digests.of(results), paper=True)
    assert "on 2 of 2 backbone-dataset pairs" in said[0] and "not counted" not in said[0]
    assert any("Clean at 8/255: sched better in 2 of 2" in line for line in said)
