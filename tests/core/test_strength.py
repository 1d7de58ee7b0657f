"""Strengths in every norm: the ids of what asks for them stay, and each is written as its norm is.

The ids are in papers, file names and W&B: they change only together with SCHEMA.
"""

from __future__ import annotations

from typing import Any

import pytest

from core.config import EvalConfig, RunConfig


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
