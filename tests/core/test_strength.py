"""Strengths in every norm: the ids of what asks for them stay, and each is written as its norm is.

The ids are in papers, file names and W&B: they change only together with SCHEMA.
"""

from __future__ import annotations

import pickle
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import EvalConfig, RunConfig, Strength
from core.config.strength import Norm


def parsed(**fields: Any) -> RunConfig:
    return RunConfig.parse({"backbone": "swin", "dataset": "aircraft", **fields})


@pytest.mark.parametrize(
    ("data", "golden"),
    [
        ({"norm": "l2"}, "swin-aircraft-l2_eps4_255-fix-s0-ae0dd436cc258bea"),
        ({"norm": "l2", "epsilon_g": 0.2}, "swin-aircraft-l2_eps1_5-fix-s0-06d5f80b39148e7f"),
        ({"norm": "l2", "epsilon_g": "51/255"}, "swin-aircraft-l2_eps1_5-fix-s0-06d5f80b39148e7f"),
        ({"norm": "l2", "epsilon_g": "1/3"}, "swin-aircraft-l2_eps1_3-fix-s0-d782aeb881c06de9"),
        (
            {"norm": "l2", "epsilon_g": "2", "validation": {"epsilon": 0.5}},
            "swin-aircraft-l2_eps2-fix-s0-24a5ea6a15aea64c",
        ),
        (
            {"norm": "l2", "epsilon_g": 0.5, "validation": {"epsilon": "4/255"}},
            "swin-aircraft-l2_eps1_2-fix-s0-b4ef4597e773c1d0",
        ),
        ({"norm": "l1", "epsilon_g": 12}, "swin-aircraft-l1_eps12-fix-s0-03f8d6c8f567dce5"),
        ({"norm": "l1", "epsilon_g": 37.5}, "swin-aircraft-l1_eps75_2-fix-s0-3540426dd8bf3805"),
        (
            {"norm": "l2", "schedule": "standard", "validation": {"epsilon": 0.2}},
            "swin-aircraft-standard-s0-a071e80001109a1d",
        ),
        ({"epsilon_g": 0.2}, "swin-aircraft-eps51-fix-s0-493ec3e136041c13"),
        (
            {"epsilon_g": 0.01, "validation": {"epsilon": "2/255"}},
            "swin-aircraft-eps51_20-fix-s0-57754892b1154ad9",
        ),
        (
            {"epochs": 10, "schedule": {"kind": "points", "points": [[0, 0], [5, 0.5], [9, 1]]}},
            "swin-aircraft-eps4-points0_0_5_0_5_9_1-s0-7c538e34b61fff52",
        ),
    ],
)
def test_run_ids_stay(data: dict[str, Any], golden: str) -> None:
    config = parsed(**data)
    assert config.id == golden
    again = RunConfig.parse(config.to_dict())
    assert again == config and again.id == golden


@pytest.mark.parametrize(
    ("data", "golden"),
    [
        (
            {"norm": "l2", "epsilons": [0, "0.2", "1/2", 2, 12], "prior": [1] * 5},
            "apgd_ce10-l2-test-cad07e01f1d953d9",
        ),
        ({"norm": "l2", "epsilons": "0..16/255"}, "apgd_ce10-l2-test-4b3d935b2abfe9ec"),
        (
            {"norm": "l1", "epsilons": [0, 12, 75], "attack": "autoattack"},
            "autoattack10-l1-test-393e62e1ef0e9561",
        ),
        ({"epsilons": [0, 0.01, 0.2]}, "apgd_ce10-linf-test-5a10b1b53392f134"),
        ({"epsilons": [0, "1/255"]}, "apgd_ce10-linf-test-27ff364c6f1f26bf"),
        ({"attack": "corruptions"}, "corruptions3-test-aa1ae5dfc5ada7a6"),
    ],
)
def test_evaluation_ids_stay(data: dict[str, Any], golden: str) -> None:
    asked = EvalConfig.parse(data)
    assert asked.id == golden
    again = EvalConfig.parse(asked.to_dict())
    assert again == asked and again.id == golden


@pytest.mark.parametrize(
    ("value", "norm", "text", "slug"),
    [
        ("4/255", "linf", "4/255", "eps4"),
        (0.2, "linf", "51/255", "eps51"),
        ("0.01", "linf", "1/100", "eps51_20"),
        (0, "linf", "0", "eps0"),
        (0.2, "l2", "0.2", "l2_eps1_5"),
        ("51/255", "l2", "0.2", "l2_eps1_5"),  # as stores of older versions have it
        ("1/5", "l2", "0.2", "l2_eps1_5"),
        (100, "l2", "100", "l2_eps100"),
        ("75/2", "l1", "37.5", "l1_eps75_2"),
        ("1/3", "l1", "1/3", "l1_eps1_3"),
    ],
)
def test_the_text_of_a_strength_follows_from_its_norm(
    value: object, norm: Norm, text: str, slug: str
) -> None:
    strength = Strength.parse(value, norm)
    assert (str(strength), strength.slug) == (text, slug)
    assert Strength.parse(text, norm) == strength == Strength.of_255ths(strength.in_255ths, norm)


@given(st.fractions(0, 1000, max_denominator=1000), st.sampled_from(["l2", "l1"]))
def test_what_is_shown_or_stored_in_a_frame_reads_back(number: Fraction, norm: Norm) -> None:
    strength = Strength(number, norm)
    assert Strength.parse(str(strength), norm) == strength
    assert Strength.of_255ths(strength.in_255ths, norm) == strength


def test_equal_numbers_in_two_norms_are_two_strengths() -> None:
    of_l2, of_linf = Strength(Fraction(1, 5), "l2"), Strength(Fraction(1, 5))
    assert len({of_l2, of_linf, Strength.parse("0.2", "l2")}) == 2
    assert sorted([of_l2, of_linf, Strength(Fraction(1, 10), "l2")])[0].number == Fraction(1, 10)


def test_configs_are_written_in_their_norm() -> None:
    run = parsed(norm="l2", epsilon_g=0.2, validation={"epsilon": "51/255"}).to_dict()
    assert run["epsilon_g"] == "0.2" and run["validation"]["epsilon"] is None
    assert parsed(norm="l2", epsilon_g=0.2).validation_epsilon == Strength(Fraction(1, 5), "l2")
    run = parsed(norm="l2", epsilon_g=0.5, validation={"epsilon": 0.25}).to_dict()
    assert run["validation"]["epsilon"] == "0.25"
    asked = EvalConfig.parse({"norm": "l2", "epsilons": [0, 0.2, "1/2", 12]}).to_dict()
    assert asked["epsilons"] == ["0", "0.2", "0.5", "12"]
    points = parsed(epochs=9, schedule={"kind": "points", "points": [[0, 0], [5, 0.5], [8, 1]]})
    shares = [share for _, share in points.to_dict()["schedule"]["points"]]
    assert shares == ["0", "1/2", "1"], "shares of eps_g, no strengths"


def test_a_number_that_keeps_its_hash_is_still_a_fraction() -> None:
    """In dicts, after a pickle, and in ids, which hash the share of a point as any fraction."""
    number = Strength.parse("4/255").number
    assert {Fraction(4, 255): 1}[number] == 1 and hash(number) == hash(Fraction(4, 255))
    assert pickle.loads(pickle.dumps(number)) == number
    plain, exact = (
        parsed(schedule={"kind": "points", "points": [[0, 0], [10, share]]})
        for share in (Fraction(1, 2), "1/2")
    )
    assert plain.id == exact.id
