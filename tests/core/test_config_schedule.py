"""Schedules in a config: presets, hinges, points, and their names."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import ConfigError, RunConfig
from core.config.schedule import sched_hinges

fractions_of_one = st.floats(0, 1, allow_subnormal=False)


def parsed(**changes: Any) -> RunConfig:
    return RunConfig.parse({"backbone": "swin", "dataset": "aircraft", **changes})


class TestSchedule:
    def test_points(self) -> None:
        config = parsed(schedule={"kind": "points", "points": [[0, 0], [0.5, "1/2"], [40, 1]]})
        assert config.schedule.points == ((0, 0), (25, Fraction(1, 2)), (40, 1))
        assert config.setting == "points=0:0;25:0.5;40:1"
        assert RunConfig.parse(config.to_dict()).id == config.id != parsed().id
        assert "-points" in config.slug

    @pytest.mark.parametrize(
        ("points", "line"),
        [
            (None, "expected points: .*, got None"),
            ([], "expected points"),
            ([[0, 0, 1]], "expected points"),
            ([[3, 0], [2, 1]], "ascending order of epochs, got epochs 3, 2"),
            ([[-1, 0]], "got epochs -1"),
            ([["x", 0]], "got epochs x"),
            ([[2.5, 0]], "fraction of the training"),
            ([[0, 2]], r"schedule.points.0.1: a strength lies in \[0, 1\], got 2"),
        ],
    )
    def test_bad_points(self, points: Any, line: str) -> None:
        with pytest.raises(ConfigError, match=line):
            parsed(schedule={"kind": "points", "points": points})

    def test_points_belong_to_their_kind(self) -> None:
        with pytest.raises(ConfigError, match="points belong to kind: points, not to 'uniform'"):
            parsed(schedule={"kind": "uniform", "points": [[0, 1]]})

    def test_paper(self) -> None:
        schedule = parsed(schedule="sched").schedule
        assert (schedule.T1, schedule.T2) == (12, 37)

    @given(st.integers(2, 500))
    def test_sched_is_scaled(self, epochs: int) -> None:
        T1, T2 = sched_hinges(epochs)
        assert abs(Fraction(T1, epochs) - Fraction(12, 50)) <= Fraction(1, 2 * epochs)
        assert abs(Fraction(T2, epochs) - Fraction(37, 50)) <= Fraction(1, 2 * epochs)
        assert parsed(schedule="sched", epochs=epochs).schedule.T2 == T2
        assert parsed(schedule={"T1": T1, "T2": T2}, epochs=epochs).setting in ("sched", "fix")

    @given(fractions_of_one, fractions_of_one, st.integers(1, 200))
    def test_fractions(self, a: float, b: float, epochs: int) -> None:
        low, high = sorted((a, b))
        schedule = parsed(schedule={"T1": low, "T2": high}, epochs=epochs).schedule
        assert 0 <= schedule.T1 <= schedule.T2 <= epochs
        assert abs(schedule.T1 - low * epochs) <= 0.5 + 1e-9
        assert abs(schedule.T2 - high * epochs) <= 0.5 + 1e-9

    def test_whole_epochs_and_fractions_differ(self) -> None:
        assert parsed(schedule={"T1": 0, "T2": 1}).schedule.T2 == 1
        assert parsed(schedule={"T1": 0, "T2": 1.0}).schedule.T2 == 50

    @pytest.mark.parametrize(
        ("value", "setting"),
        [
            ("fix", "fix"),
            ("sched", "sched"),
            ("standard", "standard"),
            ({"kind": "uniform"}, "uniform"),
            ({"T1": 12, "T2": 37}, "sched"),
            ({"T1": 5, "T2": 25}, "T1=5;T2=25"),
        ],
    )
    def test_setting(self, value: object, setting: str) -> None:
        assert parsed(schedule=value).setting == setting
