"""Schedules against the formula and the published values, on every epoch."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seen import seen

from core.config import ConfigError, RunConfig
from core.training import schedules
from core.training.schedules import Auto, Points, TwoHinge


def config(schedule: Any, epochs: int, *, seed: int = 0) -> RunConfig:
    fields = {"backbone": "vit", "dataset": "cars", "epsilon_g": "4/255"}
    return RunConfig.parse(fields | {"schedule": schedule, "epochs": epochs, "seed": seed})


def alphas(schedule: Any, epochs: int, *, seed: int = 0) -> list[Fraction]:
    made = schedules.make(config(schedule, epochs, seed=seed))
    return [made.alpha(epoch) for epoch in range(epochs)]


@st.composite
def hinges(draw: st.DrawFn) -> tuple[int, int, int]:
    """0 <= T1 <= T2 <= epochs."""
    epochs = draw(st.integers(1, 120))
    T2 = draw(st.integers(0, epochs))
    return draw(st.integers(0, T2)), T2, epochs


@given(hinges())
def test_two_hinge_is_the_formula(case: tuple[int, int, int]) -> None:
    T1, T2, epochs = case
    for t, alpha in enumerate(alphas({"T1": T1, "T2": T2}, epochs)):
        if t < T1:
            assert alpha == 0
        elif t < T2:
            assert alpha == Fraction(t - T1, T2 - T1)
        else:
            assert alpha == 1


@given(hinges())
def test_two_hinge_rises_by_equal_steps_between_its_hinges(case: tuple[int, int, int]) -> None:
    T1, T2, epochs = case
    found = alphas({"T1": T1, "T2": T2}, epochs)
    assert all(0 <= a <= 1 and isinstance(a, Fraction) for a in found)
    steps = [b - a for a, b in pairwise(found)]
    if T1 < T2:
        assert steps == [Fraction(int(T1 <= t < T2), T2 - T1) for t in range(epochs - 1)]
        assert found[0] == 0
    else:
        assert [t for t, step in enumerate(steps) if step] == ([T1 - 1] if 0 < T1 < epochs else [])
    if epochs > T2:
        assert found[T2] == 1


def test_the_papers_schedule() -> None:
    """T1 = 12 and T2 = 37 of 50 epochs: the preset, the mapping, and the fractions."""
    for schedule in ("sched", {"T1": 12, "T2": 37}, {"kind": "two_hinge", "T1": 0.24, "T2": 0.74}):
        found = alphas(schedule, 50)
        assert found[:13] == [0] * 13
        assert found[13] == Fraction(1, 25)
        assert found[25] == Fraction(13, 25)
        assert found[36] == Fraction(24, 25)
        assert found[37:] == [1] * 13
    assert config("sched", 50) == config({"T1": 12, "T2": 37}, 50)


def test_the_strength_in_255ths() -> None:
    """eps(13) = eps_g / 25, exactly: not a rounded float."""
    run = config("sched", 50)
    assert schedules.make(run).alpha(13) * run.epsilon_g.number == Fraction(4, 25 * 255)


@pytest.mark.parametrize(
    ("epochs", "T1", "T2"), [(50, 12, 37), (12, 3, 9), (100, 24, 74), (10, 2, 7), (4, 1, 3)]
)
def test_the_papers_schedule_scales_with_the_training(epochs: int, T1: int, T2: int) -> None:
    assert config("sched", epochs).schedule == config({"T1": T1, "T2": T2}, epochs).schedule


@given(st.integers(1, 120))
def test_special_cases(epochs: int) -> None:
    assert alphas("standard", epochs) == [0] * epochs
    assert alphas("fix", epochs) == alphas({"T1": 0, "T2": 0}, epochs) == [1] * epochs
    warm = alphas({"T1": 0, "T2": epochs}, epochs)
    assert warm == [Fraction(t, epochs) for t in range(epochs)]
    switch = alphas({"T1": epochs // 2, "T2": epochs // 2}, epochs)
    assert switch == [0] * (epochs // 2) + [1] * (epochs - epochs // 2)


def test_the_hinges_of_table_seven() -> None:
    for T1, T2s in {0: (0, 12, 30, 50), 5: (5, 12, 25, 50), 12: (12, 30, 37, 50)}.items():
        for T2 in T2s:
            found = alphas({"T1": T1, "T2": T2}, 50)
            assert found.count(0) == (T1 + 1 if T2 > T1 else T1)
            assert found.count(1) == 50 - T2


@pytest.mark.parametrize(
    "schedule",
    [
        {"T1": 13, "T2": 12},
        {"T1": 0, "T2": 51},
        {"T1": -1, "T2": 12},
        {"kind": "uniform", "T1": 3},
        {"kind": "auto", "patience": 0},
        {"kind": "auto", "tolerance": 1.0},
        "shced",
    ],
    ids=str,
)
def test_contradictions_are_one_line(schedule: Any) -> None:
    with pytest.raises(ConfigError) as error:
        config(schedule, 50)
    assert len(error.value.lines) == 1 and "schedule" in error.value.lines[0]


@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 500))
def test_uniform_repeats_and_stays_in_range(seed: int, epoch: int) -> None:
    first = schedules.make(config("uniform", 50, seed=seed)).alpha(epoch)
    again = schedules.make(config("uniform", 80, seed=seed))
    again.alpha(7)  # what was asked before does not matter
    assert again.alpha(epoch) == first and 0 <= first < 1


def test_uniform_is_uniform_and_differs_between_epochs_and_seeds() -> None:
    drawn = [float(a) for seed in range(20) for a in alphas("uniform", 50, seed=seed)]
    assert len(set(drawn)) == 1000
    # Mean and variance of U[0, 1], within four standard errors of 1,000 draws.
    mean = sum(drawn) / 1000
    assert mean == pytest.approx(0.5, abs=4 * (1 / 12 / 1000) ** 0.5)
    variance = sum((a - mean) ** 2 for a in drawn) / 1000
    assert variance == pytest.approx(1 / 12, abs=4 * (1 / 180 / 1000) ** 0.5)
    for tenth in range(10):
        assert 60 < sum(tenth <= 10 * a < tenth + 1 for a in drawn) < 140


def follow(schedule: Auto, accuracies: list[float]) -> list[Fraction]:
    found = []
    for epoch, accuracy in enumerate(accuracies):
        found.append(schedule.alpha(epoch))
        schedule.observe(seen(epoch, accuracy))
    return found


def test_auto_waits_for_convergence_then_rises_to_one_at_the_last_epoch() -> None:
    """Rises until epoch 4, then five epochs within 2 %: attacked from epoch 10 on."""
    made = schedules.make(config("auto", 20))
    assert isinstance(made, Auto)
    accuracies = [0.1, 0.3, 0.5, 0.6, 0.7, 0.71, 0.70, 0.72, 0.69, 0.715, *[0.3] * 10]
    found = follow(made, accuracies)
    assert found == [0] * 10 + [Fraction(t, 10) for t in range(1, 11)]


def test_auto_waits_again_when_accuracy_rises_late() -> None:
    schedule = Auto(30, patience=3, tolerance=0.02)
    late = [0.5, 0.5, 0.5, 0.53, 0.53, 0.53, 0.53]  # the fourth beats the best by 3 %
    found = follow(schedule, [*late, *[0.5] * 23])
    assert found[:7] == [0] * 7 and found[7] == Fraction(1, 23) and found[-1] == 1


def test_a_lead_of_just_the_tolerance_does_not_count() -> None:
    for count in range(99):
        schedule = Auto(30, patience=1, tolerance=0.02)
        schedule.observe(seen(0, count / 100))
        schedule.observe(seen(1, (count + 2) / 100))
        assert schedule.alpha(2) > 0


def test_auto_that_never_converges_never_attacks() -> None:
    found = follow(Auto(20, patience=5, tolerance=0.02), [0.05 * i for i in range(20)])
    assert found == [0] * 20


@given(
    correct=st.lists(st.integers(0, 100), min_size=2, max_size=60),
    patience=st.integers(1, 8),
    tolerance=st.integers(0, 20),
)
def test_auto_by_its_definition(correct: list[int], patience: int, tolerance: int) -> None:
    """Zero up to the first epoch at which none of the last `patience` beat the best before them
    by more than `tolerance`; then one straight line to 1 at the last epoch. In whole percent: a
    lead of just the tolerance, 0.14 over 0.12, is none, though it is more than 0.02 in floats."""
    epochs = len(correct)
    found = follow(Auto(epochs, patience, tolerance / 100), [count / 100 for count in correct])
    best, since, start = correct[0], 0, None
    for epoch, count in enumerate(correct[1:], start=1):
        since = 0 if count > best + tolerance else since + 1
        best = count if since == 0 else best
        if since == patience:
            start = epoch
            break
    if start is None:
        assert found == [0] * epochs
        return
    assert found[: start + 1] == [0] * (start + 1)
    assert found[start + 1 :] == [Fraction(i, epochs - 1 - start) for i in range(1, epochs - start)]


@given(
    accuracies=st.lists(st.floats(0, 1), min_size=2, max_size=40),
    cut=st.integers(0, 39),
)
def test_autos_state_survives_a_restart_at_any_epoch(accuracies: list[float], cut: int) -> None:
    epochs, cut = len(accuracies), min(cut, len(accuracies))
    whole = follow(Auto(epochs, 3, 0.05), accuracies)
    first, second = Auto(epochs, 3, 0.05), Auto(epochs, 3, 0.05)
    before = follow(first, accuracies[:cut])
    second.restore(first.state())
    after = []
    for epoch in range(cut, epochs):
        after.append(second.alpha(epoch))
        second.observe(seen(epoch, accuracies[epoch]))
    assert before + after == whole


@pytest.mark.parametrize("schedule", ["standard", "fix", "uniform"])
def test_other_schedules_have_no_state_and_ignore_accuracy(schedule: str) -> None:
    made = schedules.make(config(schedule, 10))
    before = [made.alpha(epoch) for epoch in range(10)]
    made.restore(made.state())
    for epoch in range(10):
        made.observe(seen(epoch, 0.9))
    assert made.state() == {} and [made.alpha(epoch) for epoch in range(10)] == before


@given(
    points=st.lists(
        st.tuples(st.integers(0, 60), st.fractions(0, 1, max_denominator=20)), min_size=1
    ).map(lambda pairs: sorted(pairs, key=lambda pair: pair[0])),
    epoch=st.integers(0, 80),
)
def test_points_are_met_and_joined_by_lines(points: list[tuple[int, Fraction]], epoch: int) -> None:
    schedule = Points(points)
    last = dict(points)  # of several at one epoch, the last
    for at, fraction in last.items():
        assert schedule.alpha(at) == fraction
    nearby = [schedule.alpha(epoch + i) for i in range(3)]
    inside = not {epoch + 1} & set(last) and points[0][0] <= epoch and epoch + 2 <= points[-1][0]
    jumps = len(last) < len(points)
    if inside and not jumps:
        assert nearby[1] - nearby[0] == nearby[2] - nearby[1]
    assert min(f for _, f in points) <= nearby[0] <= max(f for _, f in points)


def test_points_say_what_two_hinges_say() -> None:
    points, hinges = Points([(12, Fraction(0)), (37, Fraction(1))]), TwoHinge(12, 37)
    assert [points.alpha(t) for t in range(50)] == [hinges.alpha(t) for t in range(50)]
    jump = Points([(5, Fraction(0)), (5, Fraction(1))])
    assert [jump.alpha(t) for t in range(3, 8)] == [0, 0, 1, 1, 1]
