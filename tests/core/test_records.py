"""The arithmetic of the paper: expected robustness and adaptation delay."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.store.records import curve, delay, expected_accuracy, expected_over, threshold, unit_grid


def points(values: list[float]) -> dict[Fraction, float]:
    return {Fraction(i, 255): value for i, value in enumerate(values)}


@given(k=st.integers(1, 255), level=st.floats(0, 1))
def test_a_flat_curve_keeps_its_value(k: int, level: float) -> None:
    assert expected_accuracy(points([level] * 256), Fraction(k, 255)) == pytest.approx(level)


@given(k=st.integers(1, 255), start=st.floats(0, 1), end=st.floats(0, 1))
def test_a_straight_curve_gives_the_mean_of_its_ends(k: int, start: float, end: float) -> None:
    line = [start + (end - start) * i / k for i in range(k + 1)]
    assert expected_accuracy(points(line), Fraction(k, 255)) == pytest.approx((start + end) / 2)


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_equals_the_trapezoidal_rule(values: list[float]) -> None:
    k = len(values) - 1
    expected = sum((a + b) / 2 for a, b in pairwise(values)) / k
    assert expected_accuracy(points(values), Fraction(k, 255)) == pytest.approx(expected)


@given(values=st.lists(st.floats(0, 1), min_size=10, max_size=20))
def test_lies_between_the_extremes_and_ignores_what_lies_beyond(values: list[float]) -> None:
    value = expected_accuracy(points(values), Fraction(5, 255))
    assert min(values[:6]) - 1e-12 <= value <= max(values[:6]) + 1e-12
    assert expected_accuracy(points(values[:6]), Fraction(5, 255)) == value


def test_a_curve_by_hand() -> None:
    """(Acc_0/2 + Acc_1 + Acc_2 + Acc_3 + Acc_4/2) / 4 at 4/255, on the count of images."""
    rows = [
        {"epsilon": eps, "correct": correct, "n": 1000}
        for eps, correct in zip(
            ["0", "1/255", "2/255", "3/255", "4/255"], [602, 530, 445, 362, 297], strict=True
        )
    ]
    value = expected_accuracy(curve(rows), Fraction(4, 255))
    assert value == pytest.approx((301 + 530 + 445 + 362 + 148.5) / 4000)


def test_a_missing_point_is_an_error_that_names_it() -> None:
    thin = {Fraction(i, 255): 0.5 for i in (0, 2, 4)}
    with pytest.raises(ValueError, match="no accuracy measured at 1/255, 3/255"):
        expected_accuracy(thin, Fraction(4, 255))
    with pytest.raises(ValueError, match="no accuracy measured at 0"):
        expected_accuracy({Fraction(1, 255): 0.5}, Fraction(1, 255))


@pytest.mark.parametrize("strength", [Fraction(0), Fraction(1, 100), Fraction(-1, 255)])
def test_a_strength_off_the_grid_is_an_error(strength: Fraction) -> None:
    with pytest.raises(ValueError, match="expected eps_g = k/255"):
        unit_grid(strength)


@given(k=st.integers(1, 255))
def test_the_grid_is_exact(k: int) -> None:
    grid = unit_grid(Fraction(k, 255))
    assert len(grid) == k + 1 and grid[0] == 0 and grid[-1] == Fraction(k, 255)
    assert {b - a for a, b in pairwise(grid)} == {Fraction(1, 255)}


def test_a_curve_counts_images() -> None:
    rows = [
        {"epsilon": "0", "correct": 3, "n": 4},
        {"epsilon": "15/255", "correct": 0, "n": 4},
    ]
    assert curve(rows) == {Fraction(0): 0.75, Fraction(1, 17): 0.0}


def epochs(correct: list[int], images: int = 200) -> list[dict[str, Any]]:
    return [
        {"epoch": epoch, "val_clean_correct": count, "val_clean_images": images}
        for epoch, count in enumerate(correct)
    ]


@pytest.mark.parametrize(
    ("correct", "expected"),
    [
        ([11, 0, 0], 0),
        ([10, 10, 11], 2),  # exactly 5 % of 200 does not exceed 5 %
        ([0, 30, 0], 1),  # the first time counts, whatever follows
        ([10, 9, 10], 3),
        ([], 3),
    ],
)
def test_delay_is_the_first_epoch_above_five_percent(correct: list[int], expected: int) -> None:
    assert delay(epochs(correct), 3) == expected


def test_expected_over_a_grid_of_any_norm() -> None:
    accuracy = {Fraction(0): 0.9, Fraction(1, 2): 0.5, Fraction(2): 0.1}
    # By hand: trapezoids of width 1/2 and 3/2.
    assert expected_over(accuracy) == pytest.approx((0.5 * 0.7 + 1.5 * 0.3) / 2)
    assert expected_over(accuracy, [2, 0, 2]) == pytest.approx(0.5)
    assert expected_over(accuracy, [0, 3, 0]) == pytest.approx(0.5)
    assert expected_over({Fraction(1): 0.3}, [1]) == 0.3


@given(st.integers(1, 20), st.data())
def test_expected_over_is_the_papers_on_its_grid(k: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.floats(0, 1), min_size=k + 1, max_size=k + 1))
    accuracy = {Fraction(i, 255): value for i, value in enumerate(values)}
    paper = expected_accuracy(accuracy, Fraction(k, 255))
    assert expected_over(accuracy) == pytest.approx(paper)
    weights = [0.5, *[1.0] * (k - 1), 0.5]
    assert expected_over(accuracy, weights) == pytest.approx(paper)


@pytest.mark.parametrize("prior", [[1], [0, 0], []])
def test_expected_over_refuses_weights_that_do_not_fit(prior: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 2 weights"):
        expected_over({Fraction(0): 1.0, Fraction(1): 0.5}, prior)


def test_one_point_has_no_uniform_prior() -> None:
    with pytest.raises(ValueError, match="two strengths"):
        expected_over({Fraction(0): 1.0})


def test_curve_of_a_norm_with_plain_strengths() -> None:
    row = {"attack": "a", "norm": "l2", "epsilon": "2", "n": 4, "correct": 1}
    assert curve([row]) == {Fraction(2): 0.25}


class TestThreshold:
    def test_is_the_papers_for_100_classes_or_more_or_if_unknown(self) -> None:
        assert {threshold(classes) for classes in (None, 100, 196, 257)} == {0.05}
        assert threshold(99) == pytest.approx(0.05, abs=5e-4), "it does not jump"

    def test_is_between_chance_and_all_right_for_fewer(self) -> None:
        limits = [threshold(classes) for classes in range(2, 101)]
        assert limits == sorted(limits, reverse=True)
        assert all(1.2 / classes < limit < 1 for classes, limit in enumerate(limits, start=2))
        assert [round(100 * threshold(c), 1) for c in (64, 10, 2)] == [6.7, 22.4, 63.7]

    def test_chance_is_no_adaptation(self) -> None:
        """12 % right of 10 classes, as of ImageNette."""
        rows = [row | {"classes": 10} for row in epochs([12, 11, 80], 100)]
        assert delay(rows, 3) == 2 and delay(rows[:2], 2) == 2
        assert delay(epochs([12, 11, 80], 100), 3) == 0, "the rule of the paper"
        assert delay(epochs([12, 11, 80], 100), 3, 10) == 2, "of runs that do not say it themselves"
