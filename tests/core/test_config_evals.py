"""EvalConfig and strengths: what is shown reads back, and a bad evaluation is one line."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import (
    ConfigError,
    EvalConfig,
    RobustAccuracy,
    RunConfig,
    Strength,
)

ONE_TYPE = {"severity": 3, "per_image": "one"}
ELSEWHERE: dict[str, dict[str, Any]] = {
    "apgd-ce": ONE_TYPE,
    "autoattack": {**ONE_TYPE, "mode": "exact"},
    "corruptions": dict(norm="linf", steps=10, epsilons=["0"], prior=None, mode="exact"),
}


class TestStrength:
    @given(st.fractions(0, 1))
    def test_shown_strength_reads_back(self, strength: Fraction) -> None:
        assert Strength.parse(str(Strength(strength))) == Strength(strength)

    @pytest.mark.parametrize(
        ("strength", "text"), [("8/255", "8/255"), ("0", "0"), ("1", "255/255"), ("1/2", "1/2")]
    )
    def test_shown_in_255ths(self, strength: str, text: str) -> None:
        assert str(Strength.parse(strength)) == text


class TestEvalConfig:
    @given(
        st.sets(st.integers(1, 255), max_size=9).map(
            lambda ks: [f"{k}/255" for k in (0, *sorted(ks))]
        ),
        st.integers(1, 99),
        st.none() | st.integers(1, 999),
    )
    def test_round_trip(self, epsilons: list[str], steps: int, images: int | None) -> None:
        evaluation = EvalConfig.parse({"epsilons": epsilons, "steps": steps, "images": images})
        assert EvalConfig.parse(evaluation.to_dict()) == evaluation
        assert EvalConfig.parse(evaluation.to_dict()).id == evaluation.id
        assert re.fullmatch(r"apgd_ce\d+-linf-test-[0-9a-f]{16}", evaluation.id)

    def test_plain_strengths_of_l2_and_l1(self) -> None:
        asked = EvalConfig.parse(
            {"norm": "l2", "epsilons": [0, "0.2", "1/2", 2, 12], "prior": [1] * 5}
        )
        assert list(map(str, asked.epsilons)) == ["0", "0.2", "0.5", "2", "12"]
        assert EvalConfig.parse(asked.to_dict()).id == asked.id
        assert asked.id.startswith("apgd_ce10-l2-test-")
        assert asked.model_copy(update={"prior": None}).id != asked.id

    @pytest.mark.parametrize(
        ("data", "known"),
        [
            ({}, "apgd_ce10-linf-test-ede0de8074924080"),
            (
                {"steps": 50, "epsilons": "0..8/255", "split": "val"},
                "apgd_ce50-linf-val-2065add6f5157a31",
            ),
            (
                {"norm": "l2", "epsilons": [0, "0.5", 2], "prior": [1, 2, 3]},
                "apgd_ce10-l2-test-77f3495df821946b",
            ),
            ({"mode": "fast", "images": 300}, "apgd_ce10-linf-test-4e8270d396ae5d13"),
            ({"attack": "autoattack"}, "autoattack10-linf-test-3ff3dd5a8bc8cc87"),
            (
                {"attack": "autoattack", "norm": "l1", "epsilons": [0, 12], "images": 9},
                "autoattack10-l1-test-1869689a0fcb6b97",
            ),
            ({"attack": "corruptions"}, "corruptions3-test-aa1ae5dfc5ada7a6"),
            (
                {
                    "attack": "corruptions",
                    "severity": 5,
                    "per_image": "all",
                    "split": "val",
                    "images": 100,
                },
                "corruptions5-val-076b2aea070cd6bd",
            ),
        ],
    )
    def test_ids_are_those_of_stores_in_use(self, data: dict[str, Any], known: str) -> None:
        """Also when read from a record that says of every kind's fields that they are as usual."""
        asked = EvalConfig.parse(data)
        assert asked.id == known
        assert EvalConfig.parse(ELSEWHERE[asked.attack] | asked.to_dict()) == asked

    def test_range(self) -> None:
        assert EvalConfig.parse({"epsilons": "0..16/255"}) == RobustAccuracy()
        assert EvalConfig.parse({"epsilons": "0..2/8"}).epsilons == tuple(
            Strength(Fraction(i, 8)) for i in range(3)
        )

    @pytest.mark.parametrize(
        ("data", "line"),
        [
            ({"epsilons": ["1/255"]}, "ascending strengths that begin with 0"),
            ({"epsilons": [0, "2/255", "1/255"]}, "ascending"),
            ({"epsilons": []}, "ascending"),
            ({"epsilons": "0..x"}, "a list of strengths or '0..16/255', got '0..x'"),
            ({"epsilons": "0..3/0"}, "a list of strengths"),
            ({"epsilons": "0..999999999999/999999999999"}, "a list of strengths"),
            ({"epsilons": "0..300/255"}, r"\[0, 1\]"),
            ({"steps": 0}, "steps: input should be greater"),
            ({"stepz": 1}, "stepz: unknown key, did you mean 'steps'?"),
            ({"norm": "l2", "epsilons": [0, -1]}, r"for l2 lies in \[0, 1000000\], got -1"),
            ({"norm": "l2"}, "epsilons: norm l2 has no default, expected strengths"),
            ({"norm": "l0"}, "norm: input should be 'linf', 'l2' or 'l1', got 'l0'"),
            ({"epsilons": [0, 2]}, "did you mean 2/255"),
            ({"epsilons": [0, 1], "prior": [1]}, "prior: expected 2 weights, .* got 1"),
            ({"epsilons": [0, 1], "prior": [0, 0]}, "not all 0"),
            ({"epsilons": [0, 1], "prior": [1, -1]}, "prior.1: input should be greater"),
            (
                {"attack": "pgd"},
                "attack: expected 'apgd-ce', 'autoattack', 'fmn', 'corruptions'.*, got 'pgd'",
            ),
            (
                {"attack": "autoattack", "mode": "fast"},
                "mode: does not apply to attack 'a",
            ),
        ],
    )
    def test_bad(self, data: dict[str, Any], line: str) -> None:
        with pytest.raises(ConfigError, match=line):
            EvalConfig.parse(data)


@pytest.mark.parametrize("strength", ["4/255", "8/255"])
def test_a_standard_run_is_validated_at_the_strength_it_asks_for(strength: str) -> None:
    """Also where that is the eps_g of the grid, which the run itself has none of."""
    fields = {"backbone": "vit", "dataset": "cub", "schedule": "standard"}
    asked = RunConfig.parse(fields | {"epsilon_g": strength, "validation": {"epsilon": strength}})
    assert str(asked.validation_epsilon) == strength
    assert RunConfig.parse(asked.to_dict()).id == asked.id
    assert (asked.id == RunConfig.parse(fields).id) == (strength == "4/255")
